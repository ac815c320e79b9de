//! Files of public bug reports of other projects: each is read as PyTorch reads it, or refused for
//! what it is.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use vram_diskmap::DiskMap;

/// Tensors longer than this are not part of the listing.
const MOST_LISTED_BYTES: u64 = 1 << 16;

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// What a file holds, in the form of `cases.txt`.
fn listed(path: &Path) -> String {
    let mut text = String::new();
    let map = match DiskMap::open(path) {
        Ok(map) => map,
        Err(e) => {
            let name = path.display().to_string();
            let _ = writeln!(text, "    x {:?} {}", e.kind(), e.to_string().replace(&name, "FILE"));
            let Ok(map) = DiskMap::options().lenient(true).open(path) else { return text };
            for what in map.leniencies() {
                let _ = writeln!(text, "    ? {}", what.replace(&name, "FILE"));
            }
            map
        }
    };
    let mut names: Vec<_> = map.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    for (name, info) in names {
        let shape: Vec<String> = info.shape().iter().map(usize::to_string).collect();
        let _ = write!(text, "    = {name:?} {} [{}] ", info.stored_dtype(), shape.join(","));
        if info.meta().bytes() > MOST_LISTED_BYTES {
            let _ = writeln!(text, "{} bytes", info.meta().bytes());
            continue;
        }
        let tensor = map.get(name).unwrap();
        let _ = match tensor.bytes() {
            [] => writeln!(text, "-"),
            bytes => writeln!(text, "{}", bytes.iter().map(|b| format!("{b:02x}")).collect::<String>()),
        };
    }
    for (name, why) in map.unreadable() {
        let _ = writeln!(text, "    ! {name:?} {why}");
    }
    for (name, what) in map.unread() {
        let _ = writeln!(text, "    ~ {name:?} {what}");
    }
    text
}

/// The story of a folder: its README.
fn story(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("README")).unwrap();
    text.lines().map(|line| format!("# {line}\n")).collect()
}

#[test]
fn every_case_is_read_or_refused_as_its_line_says() {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    assert!(folders.len() >= 15);
    let mut text = String::from("# See expect.py. Recorded with VRAM_RECORD=1.\n");
    for case in folders {
        let _ = write!(text, "\n{}", story(&case));
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&case).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files {
            let name = path.strip_prefix(folder()).unwrap().display().to_string();
            if !name.ends_with("README") && !name.ends_with("expect.pkl") {
                let _ = write!(text, "{name}\n{}", listed(&path));
            }
        }
    }
    let manifest = folder().join("cases.txt");
    if std::env::var_os("VRAM_RECORD").is_some() {
        std::fs::write(manifest, text).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(manifest).unwrap();
    let differing = text.lines().zip(wanted.lines()).find(|(is, wanted)| is != wanted);
    assert!(differing.is_none(), "is, and should be: {differing:?}");
    assert_eq!(text.lines().count(), wanted.lines().count());
}

#[test]
fn what_is_no_checkpoint_is_named_and_says_what_to_do() {
    // The story: a git-lfs pointer, a sign-in page and an empty download were all refused as
    // safetensors files with a header of some quintillion bytes.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("model.safetensors");
    let check = |bytes: &[u8], says: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = DiskMap::open(&path).unwrap_err();
        assert!(error.message().contains(says) && error.path() == Some(&path), "{says}: {error}");
    };
    check(b"", "the file is empty");
    check(b"no", "a text, not a checkpoint, that begins with \"no\"");
    check(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n", "git lfs pull");
    check(b"<!doctype html><html></html>", "an HTML page");
    check(b"\x89HDF\r\n\x1a\n\0\0\0\0\0\0\0\0", "HDF5");
    check(b"\x93NUMPY\x01\0v\0{'descr'", "NumPy");
    check(b"\x08\x08\x12\x07pytorch", "ONNX");
    check(b"tjgg\x01\0\0\0\0\x7d\0\0", "GGML");
    check(b"Access to this model is restricted.", "was the download refused");
    // These are as they were: a length that is none, and too few bytes of nothing known.
    check(&[0xFF; 32], "a header of 18446744073709551615 bytes");
    check(&[0, 1, 2], "3 bytes are too few");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    // The story: a checkpoint path that was a named pipe made the process wait forever.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mkfifo is not there");
        return;
    }
    for error in [DiskMap::open(&path).unwrap_err(), DiskMap::open_files([&path]).unwrap_err()] {
        assert!(error.message().contains("not a regular file") && error.path() == Some(&path), "{error}");
    }
    let error = DiskMap::open("/dev/null").unwrap_err();
    assert!(error.message().contains("a pipe, a device or a socket"), "{error}");
}
