//! The command as a user or a script sees it: exit codes, JSON and error messages.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod blocks;
mod convert;
mod daily;
mod device;
mod engine;
mod files;
mod generate;
mod outputs;
mod plan;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn vram(args: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vram")).args(args).current_dir(folder).output().unwrap()
}

/// Runs a command line that must exit with `code`, and returns stdout and stderr.
fn run(line: &str, folder: &Path, code: i32) -> (String, String) {
    let args: Vec<&str> = line.split_whitespace().collect();
    let out = vram(&args, folder);
    let (stdout, stderr) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert_eq!(out.status.code(), Some(code), "vram {line}\n{stdout}{stderr}");
    (stdout, stderr)
}

fn json(line: &str, folder: &Path) -> Value {
    serde_json::from_str(&run(&format!("{line} --json"), folder, 0).0).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

const SMALL: &str = "synth --arch qwen-image-controlnet --blocks 3 --width 64 --in-dim 16";

#[test]
fn wrong_usage_is_2_and_says_what_would_be_right() {
    let dir = folder();
    for (line, expected) in [
        ("", "Usage"),
        ("dance", "unrecognized subcommand"),
        ("inspect", "<PATH>"),
        ("inspect x --tensors a[", "a["),
        ("extract x", "--output"),
        ("extract x -o y --dtype f33", "unknown dtype"),
        ("synth --arch gpt -o x", "qwen-image-controlnet"),
        ("synth --arch qwen-image-controlnet --blocks 0 -o x", "at least 1"),
    ] {
        let (stdout, stderr) = run(line, dir.path(), 2);
        assert!(stdout.is_empty() && stderr.contains(expected), "vram {line}: {stderr}");
    }
    assert!(run("--help", dir.path(), 0).0.contains("inspect"));
    assert!(run("--version", dir.path(), 0).0.starts_with("vram "));
}

#[test]
fn failures_are_1_and_name_the_file_on_one_line() {
    let dir = folder();
    fs::write(dir.path().join("broken.safetensors"), b"\xff\xff\xff\xff\xff\xff\xff\xff{}").unwrap();
    fs::write(dir.path().join("there"), b"").unwrap();
    run(&format!("{SMALL} -o m.safetensors"), dir.path(), 0);
    for (line, expected) in [
        ("inspect nowhere.safetensors --json", "nowhere.safetensors"),
        ("inspect broken.safetensors", "broken.safetensors"),
        ("extract m.safetensors --tensors nothing.* -o y", "no tensor matches"),
        ("extract m.safetensors -o there", "--force"),
        ("extract m.safetensors -o no/such/folder/y", "no/such/folder/y"),
        ("synth --arch qwen-image-controlnet --blocks 1 --shards 99 -o x", "99 shards"),
    ] {
        let (stdout, stderr) = run(line, dir.path(), 1);
        assert!(stdout.is_empty() && stderr.contains(expected), "vram {line}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "vram {line}: {stderr}");
    }
    let left = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.ends_with(".partial")), "nothing unfinished stays behind");
}

#[test]
fn synth_is_the_same_whatever_the_threads_and_shards() {
    let dir = folder();
    run(&format!("{SMALL} --seed 7 -o one.safetensors --threads 1"), dir.path(), 0);
    run(&format!("{SMALL} --seed 7 -o many.safetensors --threads 5"), dir.path(), 0);
    run(&format!("{SMALL} --seed 8 -o other.safetensors"), dir.path(), 0);
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(read("one.safetensors") == read("many.safetensors"));
    assert!(read("one.safetensors") != read("other.safetensors"));

    let made = json(&format!("{SMALL} --seed 7 --shards 3 -o s.safetensors"), dir.path());
    assert_eq!(made["files"].as_array().unwrap().len(), 3);
    assert_eq!(made["output"], "s.safetensors.index.json");
    run("extract s.safetensors.index.json -o joined.safetensors", dir.path(), 0);
    assert!(read("one.safetensors") == read("joined.safetensors"));
}

#[test]
fn synth_writes_inputs_that_forward_takes() {
    let dir = folder();
    run(&format!("{SMALL} -o m.safetensors"), dir.path(), 0);
    let sizes = "--width 64 --in-dim 16";
    run(&format!("synth --arch qwen-image-controlnet {sizes} --inputs 5 -o in.safetensors"), dir.path(), 0);
    let line = "forward --arch qwen-image-controlnet --weights m.safetensors --input in.safetensors -o out.safetensors";
    run(line, dir.path(), 0);
    assert_eq!(
        json("inspect out.safetensors", dir.path())["tensors"][0]["shape"],
        serde_json::json!([1, 5, 64])
    );
}

#[test]
fn inspect_lists_what_synth_wrote() {
    let dir = folder();
    run(&format!("{SMALL} -o m.safetensors"), dir.path(), 0);
    let found = json("inspect m.safetensors", dir.path());
    let tensors = found["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 2 + 3 * 6);
    let first = &tensors[0];
    assert_eq!((&first["name"], &first["dtype"]), (&"img_in.weight".into(), &"BF16".into()));
    assert_eq!(first["shape"], serde_json::json!([64, 16]));
    assert_eq!(first["offset"].as_u64().unwrap() % 4096, 0);
    let mut end = first["offset"].as_u64().unwrap();
    for tensor in tensors {
        assert_eq!(tensor["offset"], end, "tensors lie side by side");
        end += tensor["bytes"].as_u64().unwrap();
    }
    assert_eq!(end, fs::metadata(dir.path().join("m.safetensors")).unwrap().len());
    assert_eq!(found["bytes_read"], first["offset"], "headers only");

    let block = json("inspect m.safetensors --tensors controlnet_blocks.1.*", dir.path());
    assert_eq!(block["tensors"].as_array().unwrap().len(), 6);
    let (text, _) = run("inspect m.safetensors", dir.path(), 0);
    assert!(
        text.contains("controlnet_blocks.2.output_proj.bias") && text.contains("20 tensors of BF16"),
        "{text}"
    );
}

#[test]
fn extract_copies_to_the_bit_and_casts() {
    let dir = folder();
    run(&format!("{SMALL} -o m.safetensors"), dir.path(), 0);
    let line = "extract m.safetensors --tensors controlnet_blocks.*.input_proj.* --tensors img_in.bias";
    for read in ["auto", "pread", "direct", "mmap"] {
        let done = json(&format!("{line} --read {read} -o {read}.safetensors"), dir.path());
        assert_eq!(done["tensors"], 7);
    }
    let bytes = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert!(
        ["pread", "direct", "mmap"]
            .iter()
            .all(|r| bytes(&format!("{r}.safetensors")) == bytes("auto.safetensors"))
    );

    // bf16 to f32 and back loses nothing.
    run("extract auto.safetensors --dtype f32 -o wide.safetensors", dir.path(), 0);
    let wide = json("inspect wide.safetensors", dir.path());
    assert_eq!(wide["totals"][0]["dtype"], "F32");
    run("extract wide.safetensors --dtype bf16 -o narrow.safetensors", dir.path(), 0);
    assert!(bytes("narrow.safetensors") == bytes("auto.safetensors"));

    let before = bytes("auto.safetensors");
    run("extract wide.safetensors -o auto.safetensors --force", dir.path(), 0);
    assert!(bytes("auto.safetensors") == bytes("wide.safetensors") && before != bytes("auto.safetensors"));
}

/// A test file of `vram-diskmap`.
fn fixture(name: &str) -> String {
    format!("{}/../vram-diskmap/tests/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_format_is_inspected_extracted_and_compared() {
    let dir = folder();
    for file in [
        "torch/layouts.pt",
        "torch/legacy_dtypes.pt",
        "torch/nested.ckpt",
        "gguf/blocks.gguf",
        "gguf/numbers.gguf",
    ] {
        let path = fixture(file);
        run(&format!("extract {path} -o out.safetensors --force"), dir.path(), 0);
        let right = fixture(&format!("{file}.expected.safetensors"));
        let same = json(&format!("diff out.safetensors {right}"), dir.path());
        assert_eq!(same["equal"], true, "{file}: {same}");
        let same = json(&format!("diff {path} {right}"), dir.path());
        assert_eq!(same["equal"], true, "{file}: {same}");
        assert!(json(&format!("inspect {path}"), dir.path())["bytes_read"].as_u64().unwrap() > 0);
    }
    let blocks = json(&format!("inspect {}", fixture("gguf/blocks.gguf")), dir.path());
    assert!(blocks["totals"].as_array().unwrap().iter().any(|t| t["dtype"] == "Q4_K" && t["bytes"] == 864));
    let pairs = json(&format!("inspect --metadata {}", fixture("gguf/numbers.gguf")), dir.path());
    assert_eq!(pairs["metadata"][0]["pairs"]["u8"], "200");
    let odd = json(&format!("inspect {}", fixture("torch/unreadable.pt")), dir.path());
    assert_eq!(odd["unreadable"].as_array().unwrap().len(), 5);
}

#[test]
fn weights_with_scales_are_decoded_or_refused_and_never_cast_alone() {
    let dir = folder();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vram-diskmap/tests/scaled");
    for name in ["comfy.safetensors", "nf4.safetensors"] {
        fs::copy(files.join(name), dir.path().join(name)).unwrap();
    }
    let (_, stderr) = run("extract comfy.safetensors --dtype f32 -o wide.safetensors", dir.path(), 0);
    assert!(stderr.contains("3 tensors applied or not needed, l.scale_weight for one"), "{stderr}");
    let wide = json("inspect wide.safetensors", dir.path());
    let tensors = wide["tensors"].as_array().unwrap();
    assert_eq!((tensors.len(), &tensors[0]["dtype"]), (1, &"F32".into()));
    let done = json("extract comfy.safetensors --dtype bf16 -o narrow.safetensors", dir.path());
    assert_eq!((&done["tensors"], done["applied"].as_array().unwrap().len()), (&1.into(), 3));
    let copied = json("extract comfy.safetensors -o copy.safetensors", dir.path());
    assert_eq!((&copied["tensors"], copied["applied"].as_array().unwrap().len()), (&4.into(), 0));
    let (_, stderr) =
        run("extract nf4.safetensors --dtype bf16 --tensors q.* -o no.safetensors", dir.path(), 1);
    assert!(stderr.contains("q.qweight") && stderr.contains("GPTQ"), "{stderr}");
    let (_, stderr) =
        run("extract nf4.safetensors --dtype bf16 --tensors l.weight -o no.safetensors", dir.path(), 1);
    assert!(stderr.contains("l.weight.quant"), "{stderr}");
    assert!(!dir.path().join("no.safetensors").exists());
}

#[test]
fn diff_tells_names_shapes_dtypes_and_values_apart() {
    let dir = folder();
    run(&format!("{SMALL} -o a.safetensors"), dir.path(), 0);
    run(&format!("{SMALL} --seed 1 -o b.safetensors"), dir.path(), 0);
    assert!(run("diff a.safetensors a.safetensors", dir.path(), 0).0.contains("equal; 20 tensors"));
    let text = run("diff a.safetensors b.safetensors", dir.path(), 1).0;
    assert!(text.contains("img_in.weight: ") && text.contains("elements differ, by at most "), "{text}");
    run("diff a.safetensors b.safetensors --headers", dir.path(), 0);
    run("diff a.safetensors b.safetensors --tolerance 100", dir.path(), 0);
    // The same values in another dtype differ only in the dtype.
    run("extract a.safetensors --dtype f32 -o wide.safetensors", dir.path(), 0);
    let text = run("diff a.safetensors wide.safetensors", dir.path(), 1).0;
    assert!(
        text.contains("img_in.bias: BF16 [64] vs F32 [64]") && !text.contains("elements differ"),
        "{text}"
    );
    run("extract a.safetensors --tensors img_in.* -o part.safetensors", dir.path(), 0);
    let text = run("diff a.safetensors part.safetensors", dir.path(), 1).0;
    assert!(text.contains("only in the first: controlnet_blocks.0."), "{text}");
    run("diff a.safetensors part.safetensors --tensors img_in.*", dir.path(), 0);
    run(&format!("diff {0} {0}", fixture("torch/unreadable.pt")), dir.path(), 1);
}

#[test]
fn extract_keeps_metadata_spreads_over_shards_and_writes_checksums() {
    let dir = folder();
    run(&format!("{SMALL} -o m.safetensors"), dir.path(), 0);
    let done = json("extract m.safetensors --shard-size 20KiB --checksums -o s.safetensors", dir.path());
    let files = done["files"].as_array().unwrap();
    assert!(files.len() > 1 && done["output"] == "s.safetensors.index.json", "{done}");
    run("diff m.safetensors s.safetensors.index.json", dir.path(), 0);
    let metadata = json("inspect --metadata s.safetensors.index.json", dir.path());
    assert_eq!(metadata["metadata"][0]["pairs"]["format"], "pt");
    let again = run("extract m.safetensors --shard-size 20KiB -o s.safetensors", dir.path(), 1).1;
    assert!(again.contains("--force"), "{again}");

    let verified = json("extract s.safetensors.index.json --verify -o whole.safetensors", dir.path());
    assert_eq!(verified["verified"], 20);
    let none = run("extract m.safetensors --verify -o x.safetensors", dir.path(), 1).1;
    assert!(none.contains("no tensor has a checksum"), "{none}");
    let shard = dir.path().join(files[0].as_str().unwrap());
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let spoilt = run("extract s.safetensors.index.json --verify -o x.safetensors", dir.path(), 1).1;
    assert!(spoilt.contains("its checksum is"), "{spoilt}");
    assert!(!dir.path().join("x.safetensors").exists());
}
