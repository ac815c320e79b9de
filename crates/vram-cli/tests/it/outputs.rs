//! What commands write, and what they never replace.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::engine::with_golden;
use crate::{SMALL, folder, run, vram};

/// The commands that write files, with the flag of each output last. `plan` and `forward` have
/// other outputs beside it.
const WRITERS: [&str; 7] = [
    "forward --arch qwen-image-controlnet --weights controlnet_small.safetensors --input inputs.safetensors -o",
    "forward --arch qwen-image-controlnet --weights controlnet_small.safetensors --input inputs.safetensors \
     -o other.st --force --trace",
    "forward --arch qwen-image-controlnet --weights controlnet_small.safetensors --input inputs.safetensors \
     -o other.st --force --report",
    "extract controlnet_small.safetensors --tensors img_in.bias -o",
    "synth --arch qwen-image-controlnet --blocks 1 --width 8 --in-dim 8 -o",
    "plan controlnet_small.safetensors --arch qwen-image-controlnet --profile igpu-shared --save",
    "plan controlnet_small.safetensors --arch qwen-image-controlnet --profile igpu-shared --svg",
];

fn partials(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".partial")).collect()
}

#[test]
fn every_command_follows_the_same_rule() {
    // Kinds of targets, whether the flag is given, and what is said; nothing is said of success.
    const INPUT: &str = "would replace a file that this command reads";
    let table = [
        ("new", "", None),
        ("old", "", Some("already exists; pass --force")),
        ("old", "--force", None),
        ("controlnet_small.safetensors", "", Some(INPUT)),
        ("controlnet_small.safetensors", "--force", Some(INPUT)),
        ("link-to-weights", "--force", Some(INPUT)),
        ("hard-link-to-weights", "--force", Some(INPUT)),
        ("folder", "--force", Some("this is a folder")),
        ("no/such/folder/x", "--force", Some("no/such/folder/x")),
        ("link-to-old", "", Some("already exists")),
        ("link-to-old", "--force", None),
        ("link-to-device", "--force", None),
    ];
    let dir = with_golden();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("old"), "old").unwrap();
    fs::create_dir(at("folder")).unwrap();
    symlink("controlnet_small.safetensors", at("link-to-weights")).unwrap();
    fs::hard_link(at("controlnet_small.safetensors"), at("hard-link-to-weights")).unwrap();
    symlink("old", at("link-to-old")).unwrap();
    symlink("/dev/null", at("link-to-device")).unwrap();
    let weights = fs::read(at("controlnet_small.safetensors")).unwrap();
    for writer in WRITERS {
        let in_places = writer.starts_with("extract") || writer.starts_with("synth");
        let reads = !writer.starts_with("synth");
        for (name, force, expected) in table {
            let expected = match expected {
                // It reads nothing, so that these are files like others.
                Some(INPUT) if !reads => continue,
                None if in_places && name == "link-to-device" => Some("several threads write"),
                // Its line has the flag anyway.
                Some(words) if words.starts_with("already") && writer.contains("--force") => continue,
                expected => expected,
            };
            let _ = fs::remove_file(at("new"));
            fs::write(at("old"), "old").unwrap();
            let force = if writer.contains("--force") { "" } else { force };
            let line = format!("{writer} {name} {force}");
            let (stdout, stderr) = run(&line, dir.path(), i32::from(expected.is_some()));
            if let Some(words) = expected {
                assert!(stderr.contains(words) && stderr.contains(name), "vram {line}: {stderr}");
                assert!(stdout.is_empty() && stderr.lines().count() == 1, "vram {line}: {stderr}");
                assert_eq!(fs::read_to_string(at("old")).unwrap(), "old", "vram {line}");
            } else if name != "link-to-device" {
                assert!(fs::read(at(name)).unwrap().len() > 3, "vram {line} wrote nothing");
            }
            assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
            assert!(at("link-to-old").is_symlink(), "vram {line}");
            assert_eq!(partials(dir.path()), [""; 0], "vram {line}");
        }
    }
    assert!(fs::read(at("controlnet_small.safetensors")).unwrap() == weights);
}

/// A run wrote its output over its own weights, exit 0; so did one over a shard of its index.
#[test]
fn no_shard_of_the_input_is_replaced() {
    let dir = with_golden();
    run("extract controlnet_small.safetensors --shard-size 400KiB -o s.safetensors", dir.path(), 0);
    fs::create_dir(dir.path().join("folder")).unwrap();
    for entry in fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap()) {
        if entry.file_name().to_str().unwrap().starts_with("s") {
            fs::copy(entry.path(), dir.path().join("folder").join(entry.file_name())).unwrap();
        }
    }
    let rule = "[[rule]]\nrename = { tensors = { prefix = 'controlnet_blocks.' }, to = 'blocks.' }\n";
    fs::write(dir.path().join("rules.toml"), rule).unwrap();
    let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let shard = names.into_iter().find(|name| name.starts_with("s-00001-of-")).unwrap();
    let forward = "forward --arch qwen-image-controlnet --input inputs.safetensors --force --weights";
    for (line, output) in [
        ("extract s.safetensors.index.json --force -o", &*shard),
        ("extract s.safetensors.index.json --force --shard-size 400KiB -o", "s.safetensors"),
        ("extract folder --force -o", &format!("folder/{shard}")),
        (&*format!("{forward} s.safetensors.index.json -o"), &*shard),
        (&format!("{forward} folder -o x --trace"), "folder/s.safetensors.index.json"),
        (&format!("{forward} folder -o"), "inputs.safetensors"),
        ("extract s.safetensors.index.json --convert rules.toml --force -o", "./rules.toml"),
    ] {
        let line = format!("{line} {output}");
        let (_, stderr) = run(&line, dir.path(), 1);
        assert!(stderr.contains("would replace a file that this command reads"), "{line}: {stderr}");
    }
    run("diff controlnet_small.safetensors folder", dir.path(), 0);
    run("diff controlnet_small.safetensors s.safetensors.index.json", dir.path(), 0);
}

#[test]
fn outputs_are_checked_before_the_passes_and_against_each_other() {
    let dir = with_golden();
    let forward = WRITERS[0];
    for (flags, expected) in [
        ("x --trace x", "--trace and --output are the same file"),
        ("x --trace t.json --report ./t.json", "--report and --trace are the same file"),
        ("x --report no/such/folder/r.json", "no/such/folder"),
        ("x.gguf", "the output is safetensors, and .gguf is the ending of another format"),
        ("- --trace -", "--trace and --output are the same file"),
        ("- --json", "--output - and --json would both write to stdout"),
    ] {
        let (stdout, stderr) = run(&format!("{forward} {flags}"), dir.path(), 1);
        assert!(stdout.is_empty() && stderr.contains(expected), "{flags}: {stderr}");
        assert!(!dir.path().join("x").exists() && !dir.path().join("t.json").exists(), "{flags}");
    }
    let (_, stderr) = run("extract controlnet_small.safetensors -o -", dir.path(), 1);
    assert!(stderr.contains("which stdout does not allow"), "{stderr}");
}

#[test]
fn an_output_goes_to_stdout_alone() {
    let dir = with_golden();
    run(&format!("{} x", WRITERS[0]), dir.path(), 0);
    let args: Vec<&str> = WRITERS[0].split_whitespace().chain(["-"]).collect();
    let out = vram(&args, dir.path());
    assert!(out.status.success() && out.stdout == fs::read(dir.path().join("x")).unwrap());
    let people = String::from_utf8(out.stderr).unwrap();
    assert!(people.contains("smallest that works"), "{people}");
    // By another name, whether it is a pipe or a file.
    let args: Vec<&str> = WRITERS[0].split_whitespace().chain(["/dev/stdout"]).collect();
    assert!(vram(&args, dir.path()).stdout == fs::read(dir.path().join("x")).unwrap());
    let script = format!("{} {} /dev/stdout > y", env!("CARGO_BIN_EXE_vram"), WRITERS[0]);
    let out = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success() && String::from_utf8_lossy(&out.stderr).contains("smallest that works"));
    assert!(fs::read(dir.path().join("y")).unwrap() == fs::read(dir.path().join("x")).unwrap());
}

/// Kills a command at many moments: the target is the old file or the whole new one, and the next
/// run onto it leaves nothing unfinished.
#[test]
fn a_killed_command_leaves_the_old_file_or_the_new_one() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let line = "synth --arch qwen-image-controlnet --blocks 12 --width 192 --in-dim 16";
    run(&format!("{line} --seed 1 -o old.safetensors"), dir.path(), 0);
    let start = Instant::now();
    run(&format!("{line} --seed 2 -o new.safetensors"), dir.path(), 0);
    let whole = start.elapsed();
    let [old, new] = ["old.safetensors", "new.safetensors"].map(|name| fs::read(at(name)).unwrap());
    let words: Vec<&str> = line.split(' ').chain("--seed 2 --force -o m.safetensors".split(' ')).collect();
    let (mut killed, mut seen) = (0, [0, 0]);
    for i in 0..100u32 {
        fs::copy(at("old.safetensors"), at("m.safetensors")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_vram"))
            .args(&words)
            .current_dir(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Moments spread over the whole run, in an order without a pattern.
        std::thread::sleep(Duration::from_nanos((whole.as_nanos() as u64).div_ceil(100)) * (i * 37 % 100));
        let signal = ["-INT", "-TERM", "-KILL", "-HUP"][i as usize % 4];
        // It may have ended by now.
        let kill = Command::new("kill").args([signal, &child.id().to_string()]).output().unwrap();
        let status = child.wait().unwrap();
        if let Some(number) = status.signal() {
            assert!(kill.status.success() && [1, 2, 9, 15].contains(&number), "{status}");
            killed += 1;
            let own = format!(".{}-", child.id());
            let left = partials(dir.path()).into_iter().any(|name| name.contains(&own));
            assert!(number == 9 || !left, "{signal} after step {i} left {left:?}");
        } else {
            assert!(status.success(), "{status}");
        }
        let found = fs::read(at("m.safetensors")).unwrap();
        assert!(found == old || found == new, "{signal} after step {i}: {} bytes", found.len());
        seen[usize::from(found == new)] += 1;
        // At most one is there at any time: each run removes what the one before it left.
        let left = partials(dir.path());
        assert!(left.len() <= 1, "{signal} after step {i}: {left:?}");
    }
    println!("{killed} of 100 were killed, {} kept the old file", seen[0]);
    assert!(killed > 20 && seen[0] > 20, "{killed} {seen:?}");
    run(&words.join(" "), dir.path(), 0);
    assert_eq!(partials(dir.path()), [""; 0]);
    assert!(fs::read(at("m.safetensors")).unwrap() == new);
}

/// A signal that the caller has ignored, as `nohup` does, stays ignored.
#[test]
fn an_ignored_signal_stays_ignored() {
    let dir = folder();
    let vram = env!("CARGO_BIN_EXE_vram");
    let script = format!(
        "trap '' HUP; {vram} synth --arch qwen-image-controlnet --blocks 12 --width 192 --in-dim 16 \
         -o m.safetensors & sleep 0.02; kill -HUP $!; wait $!"
    );
    let out = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(dir.path().join("m.safetensors").exists());
}

/// A limit for the size of files ended the command in the middle and left what it had written.
#[test]
fn a_limit_for_files_is_an_error_that_leaves_nothing() {
    let dir = folder();
    let vram = env!("CARGO_BIN_EXE_vram");
    let script = format!("ulimit -f 16; {vram} {SMALL} -o m.safetensors");
    let out = Command::new("sh").args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(1) && stderr.contains("m.safetensors"), "{}: {stderr}", out.status);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_fifo_is_written_into() {
    let dir = with_golden();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let inode = fs::metadata(&fifo).unwrap().ino();
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read(fifo).unwrap()
    });
    run(&format!("{} fifo", WRITERS[0]), dir.path(), 0);
    run(&format!("{} x", WRITERS[0]), dir.path(), 0);
    assert!(reader.join().unwrap() == fs::read(dir.path().join("x")).unwrap());
    assert_eq!(fs::metadata(&fifo).unwrap().ino(), inode);
}
