//! Every kind of target, for every kind of output.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;

/// Kinds of targets by name, in a folder that has one of each.
fn one_of_each(dir: &Path) {
    fs::write(dir.join("old"), "old").unwrap();
    fs::write(dir.join("input"), "input").unwrap();
    fs::create_dir(dir.join("folder")).unwrap();
    symlink("old", dir.join("link-to-old")).unwrap();
    symlink("new", dir.join("link-to-new")).unwrap();
    symlink("input", dir.join("link-to-input")).unwrap();
    symlink("/dev/null", dir.join("link-to-device")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    fs::hard_link(dir.join("input"), dir.join("hard-link-to-input")).unwrap();
    let fifo = dir.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    drop(UnixListener::bind(dir.join("socket")).unwrap());
}

#[test]
fn a_target_a_kind_and_a_flag_have_one_outcome() {
    use Kind::{Tensors, TensorsInPlaces, Text};

    // An outcome is the way of writing, or words of the error. Without --force, then with it.
    let exists = Err("already exists; pass --force");
    let file = Ok(Way::File);
    let input = Err("would replace a file that this command reads");
    let folder = Err("this is a folder; name a file in it");
    let places = Err("several threads write, each in its place");
    type Row = (&'static str, [Result<Way, &'static str>; 3], bool);
    let table: [Row; 15] = [
        ("new", [file, file, file], false),
        ("no/such/folder", [Err("No such file"), Err("No such file"), Err("No such file")], false),
        ("folder-to-be/", [Err("names a folder"), Err("names a folder"), Err("names a folder")], false),
        ("old", [file, file, file], true),
        ("link-to-old", [file, file, file], true),
        ("link-to-new", [file, file, file], false),
        ("input", [input, input, input], false),
        ("link-to-input", [input, input, input], false),
        ("hard-link-to-input", [input, input, input], false),
        ("./folder/../input", [input, input, input], false),
        ("folder", [folder, folder, folder], false),
        ("loop", [Err("loop"), Err("loop"), Err("loop")], false),
        ("fifo", [Ok(Way::Into), places, Ok(Way::Into)], false),
        ("socket", [Err("this is a socket"), Err("this is a socket"), Err("this is a socket")], false),
        ("link-to-device", [Ok(Way::Into), places, Ok(Way::Into)], false),
    ];
    let dir = tempfile::tempdir().unwrap();
    one_of_each(dir.path());
    for (name, by_kind, needs_force) in table {
        for (kind, expected) in [Tensors, TensorsInPlaces, Text].into_iter().zip(by_kind) {
            for force in [false, true] {
                let expected = if needs_force && !force { exists } else { expected };
                let mut outputs = Outputs::new(force, false);
                outputs.reads(dir.path().join("input"));
                let found = outputs.add("-o", &dir.path().join(name), kind);
                let at = format!("{name} {kind:?} {force}: {found:?}");
                match (&found, expected) {
                    (Ok(target), Ok(way)) => assert_eq!(target.way, way, "{at}"),
                    (Err(e), Err(words)) => assert!(format!("{e:#}").contains(words), "{at}"),
                    _ => panic!("{at}"),
                }
            }
        }
    }
    assert_eq!(fs::read_to_string(dir.path().join("old")).unwrap(), "old", "nothing was written");
    assert!(!dir.path().join("new").exists());
}

#[test]
fn stdout_is_for_one_output_that_is_written_in_one_go() {
    let stdout = Path::new("-");
    let mut outputs = Outputs::new(false, false);
    assert_eq!(outputs.add("-o", stdout, Kind::Tensors).unwrap().way, Way::Stdout);
    let twice = outputs.add("--trace", stdout, Kind::Text).unwrap_err().to_string();
    assert_eq!(twice, "-: --trace and -o are the same file");
    let places = Outputs::new(true, false).add("-o", stdout, Kind::TensorsInPlaces).unwrap_err();
    assert!(places.to_string().contains("which stdout does not allow"), "{places}");
    let json = Outputs::new(true, true).add("--report", stdout, Kind::Text).unwrap_err();
    assert!(json.to_string().contains("--report - and --json"), "{json}");
}

#[test]
fn two_outputs_are_two_files() {
    let dir = tempfile::tempdir().unwrap();
    one_of_each(dir.path());
    fs::hard_link(dir.path().join("old"), dir.path().join("also-old")).unwrap();
    for (one, other) in [
        ("new", "new"),
        ("new", "./folder/../new"),
        ("new", "link-to-new"),
        ("old", "link-to-old"),
        ("old", "also-old"),
    ] {
        let mut outputs = Outputs::new(true, false);
        outputs.add("-o", &dir.path().join(one), Kind::Tensors).unwrap();
        let error = outputs.add("--trace", &dir.path().join(other), Kind::Text).unwrap_err().to_string();
        assert!(error.ends_with("--trace and -o are the same file"), "{one} {other}: {error}");
    }
    let mut outputs = Outputs::new(true, false);
    outputs.add("-o", &dir.path().join("new"), Kind::Tensors).unwrap();
    outputs.add("--trace", Path::new("/dev/null"), Kind::Text).unwrap();
    outputs.add("--report", Path::new("/dev/null"), Kind::Text).unwrap();
}

#[test]
fn endings_of_other_formats_are_refused_for_tensors_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (name, is_fine) in [("x.gguf", false), ("x.PT", false), ("x.safetensors", true), ("x", true)] {
        let add = |kind| Outputs::new(false, false).add("-o", &dir.path().join(name), kind);
        assert_eq!(add(Kind::Tensors).is_ok(), is_fine, "{name}");
        assert_eq!(add(Kind::TensorsInPlaces).is_ok(), is_fine, "{name}");
        assert!(add(Kind::Text).is_ok(), "{name}");
    }
}

#[test]
fn room_is_needed_for_all_outputs_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut outputs = Outputs::new(false, false);
    let target = outputs.add("-o", &dir.path().join("new"), Kind::Tensors).unwrap();
    let free = free_bytes(dir.path()).unwrap();
    outputs.needs(&target, free / 2).unwrap();
    let error = outputs.needs(&target, free).unwrap_err().to_string();
    assert!(error.contains("there is no room: ") && error.contains(" are free"), "{error}");
    let null = outputs.add("--trace", Path::new("/dev/null"), Kind::Text).unwrap();
    outputs.needs(&null, u64::MAX).unwrap();
}

#[test]
fn what_is_written_arrives() {
    let dir = tempfile::tempdir().unwrap();
    one_of_each(dir.path());
    let path = dir.path().join("link-to-old");
    let target = Outputs::new(true, false).add("--report", &path, Kind::Text).unwrap();
    target.write(b"new").unwrap();
    assert!(path.is_symlink() && fs::read_to_string(dir.path().join("old")).unwrap() == "new");

    let fifo = dir.path().join("fifo");
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    let meta = TensorMeta::new(vram_types::DType::U8, [3]).unwrap();
    let tensors = [("a", meta, &b"abc"[..])];
    let target = Outputs::new(false, false).add("-o", &fifo, Kind::Tensors).unwrap();
    target.write_tensors(&tensors).unwrap();
    let file = dir.path().join("a.safetensors");
    Outputs::new(false, false).add("-o", &file, Kind::Tensors).unwrap().write_tensors(&tensors).unwrap();
    assert!(reader.join().unwrap() == fs::read(file).unwrap());
    assert!(fs::metadata(&fifo).is_ok_and(|found| !found.is_file()), "the FIFO is still there");
}
