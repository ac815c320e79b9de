//! `--convert`: the same network from a checkpoint whose tensors have other names and shapes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::engine::{FORWARD, minilm, with_golden};
use crate::{SMALL, folder, json, run, vram};

/// Joins both projections of a block.
const FUSE: &str = r"
[[rule]]
concat = { tensors = { regex = '\.input_proj\.' }, parts = ['.input_proj.', '.output_proj.'], into = '.proj.' }
";
/// Splits them again.
const PART: &str = r"
[[rule]]
split = { tensors = { regex = '\.proj\.' }, into = ['.input_proj.', '.output_proj.'] }
";
/// Stores everything in another layout: side by side along the other dimension, transposed, and as
/// a vector.
const TURN: &str = r"
[[rule]]
concat = { tensors = { regex = '\.input_proj\.weight' }, dim = 1, parts = ['.input_proj.weight', '.output_proj.weight'], into = '.proj' }
[[rule]]
transpose = { tensors = { regex = '\.proj$' } }
[[rule]]
reshape = { tensors = { regex = '\.proj$' }, shape = [-1] }
[[rule]]
rename = { tensors = { prefix = 'controlnet_blocks.' }, to = 'blocks.' }
";

/// Undoes [`TURN`] for blocks of a width.
fn turn_back(width: usize) -> String {
    format!(
        r"
[[rule]]
rename = {{ tensors = {{ prefix = 'blocks.' }}, to = 'controlnet_blocks.' }}
[[rule]]
reshape = {{ tensors = {{ regex = '\.proj$' }}, shape = [-1, {width}] }}
[[rule]]
transpose = {{ tensors = {{ regex = '\.proj$' }} }}
[[rule]]
split = {{ tensors = {{ regex = '\.proj$' }}, dim = 1, into = ['.input_proj.weight', '.output_proj.weight'] }}
"
    )
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn inspect_shows_what_extract_would_write() {
    let dir = folder();
    run(&format!("{SMALL} -o m.safetensors"), dir.path(), 0);
    write(dir.path(), "fuse.toml", FUSE);
    write(dir.path(), "part.toml", PART);
    let plain = json("inspect m.safetensors", dir.path());
    let shown = json("inspect m.safetensors --convert fuse.toml", dir.path());
    assert_eq!(shown["bytes_read"], plain["bytes_read"], "headers only");
    let tensors = shown["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 2 + 3 * 4);
    let fused = tensors.iter().find(|t| t["name"] == "controlnet_blocks.1.proj.weight").unwrap();
    assert_eq!((&fused["shape"], &fused["offset"]), (&json!([128, 64]), &Value::Null));
    let parts = ["input_proj", "output_proj"].map(|part| format!("controlnet_blocks.1.{part}.weight"));
    assert_eq!(fused["made_of"], json!(parts));
    let (text, _) = run("inspect m.safetensors --convert fuse.toml", dir.path(), 0);
    assert!(text.contains("made from") && text.contains(&parts.join(", ")), "{text}");

    let done = json("extract m.safetensors --convert fuse.toml --checksums -o fused.safetensors", dir.path());
    assert_eq!((&done["tensors"], &done["bytes"]), (&json!(14), &plain["bytes"]));
    let written = json("inspect fused.safetensors", dir.path());
    let what = |found: &Value| -> Vec<Value> {
        let rows = found["tensors"].as_array().unwrap().iter();
        rows.map(|t| json!([t["name"], t["dtype"], t["shape"], t["bytes"]])).collect()
    };
    assert_eq!(what(&written), what(&shown));
    // There and back again; the checksums are those of the tensors that they are made from.
    let line = "extract fused.safetensors --convert part.toml --verify";
    let back = json(&format!("{line} -o back.safetensors"), dir.path());
    assert_eq!((&back["tensors"], &back["verified"]), (&json!(20), &json!(14)));
    run("diff m.safetensors back.safetensors", dir.path(), 0);
    let some =
        json(&format!("{line} --tensors *.0.input_proj.* --dtype f32 -o some.safetensors"), dir.path());
    assert_eq!((&some["tensors"], &some["verified"]), (&json!(2), &json!(2)));
    assert_eq!(json("inspect some.safetensors", dir.path())["totals"][0]["dtype"], "F32");
}

#[test]
fn the_network_gives_the_same_bits_whatever_its_checkpoint_looks_like() {
    let dir = with_golden();
    let at = |name: &str| dir.path().join(name);
    write(dir.path(), "fuse.toml", FUSE);
    write(dir.path(), "part.toml", PART);
    write(dir.path(), "turn.toml", TURN);
    let shapes = json("inspect controlnet_small.safetensors --tensors img_in.bias", dir.path());
    let width = shapes["tensors"][0]["shape"][0].as_u64().unwrap() as usize;
    write(dir.path(), "back.toml", &turn_back(width));
    for rules in ["fuse", "turn"] {
        let line =
            format!("extract controlnet_small.safetensors --convert {rules}.toml -o {rules}.safetensors");
        run(&line, dir.path(), 0);
    }
    run(FORWARD, dir.path(), 0);
    let expected = fs::read(at("out.safetensors")).unwrap();
    for (weights, rules) in [("fuse", "part"), ("turn", "back")] {
        let weights = format!("{weights}.safetensors");
        let line = FORWARD.replace("controlnet_small.safetensors", &weights);
        assert!(run(&line, dir.path(), 1).1.contains("not a Qwen-Image ControlNet"), "its names differ");
        let line = format!("{line} --convert {rules}.toml");
        let report = json(&line, dir.path());
        assert!(fs::read(at("out.safetensors")).unwrap() == expected, "{line}");
        let least = report["smallest_budget_bytes"].as_u64().unwrap();
        for read in ["auto", "direct", "mmap"] {
            fs::remove_file(at("out.safetensors")).unwrap();
            let line = format!("{line} --budget {least} --passes 2 --read {read}");
            let report = json(&line, dir.path());
            assert!(report["peak_bytes"].as_u64().unwrap() <= least, "{line}");
            assert!(fs::read(at("out.safetensors")).unwrap() == expected, "{line}");
        }
    }
}

/// New names for the same bytes in the same places give the same plan. Parts of a joined tensor
/// are elsewhere in the file, and the place in a slot follows the place in the file, so in that
/// case only the weights are the same.
#[test]
fn a_plan_through_rules_is_that_of_the_checkpoint_that_they_give_back() {
    let dir = folder();
    let model = "--arch qwen-image-controlnet --blocks 6 --width 256 --in-dim 16";
    run(&format!("synth {model} -o m.safetensors"), dir.path(), 0);
    let rename = |from: &str, to: &str| {
        format!("[[rule]]\nrename = {{ tensors = {{ prefix = '{from}' }}, to = '{to}' }}\n")
    };
    write(dir.path(), "rename.toml", &rename("controlnet_blocks.", "blocks."));
    write(dir.path(), "name_back.toml", &rename("blocks.", "controlnet_blocks."));
    write(dir.path(), "fuse.toml", FUSE);
    write(dir.path(), "part.toml", PART);
    let plan = |path: &str, flags: &str| {
        let line = format!("plan {path} --arch qwen-image-controlnet --tokens 8 --budget 900KiB");
        json(&format!("{line} {flags}"), dir.path())
    };
    let card = "--profile rtx3060-pcie3";
    let (expected, here) = (plan("m.safetensors", card), plan("m.safetensors", ""));
    for (there, back) in [("rename", "name_back"), ("fuse", "part")] {
        let path = format!("{there}.safetensors");
        run(&format!("extract m.safetensors --convert {there}.toml -o {path}"), dir.path(), 0);
        let plain = format!("plan {path} --arch qwen-image-controlnet");
        assert!(run(&plain, dir.path(), 1).1.contains("not a Qwen-Image ControlNet"), "its names differ");
        let flags = format!("--convert {back}.toml");
        let (mut found, probed) = (plan(&path, &format!("{flags} {card}")), plan(&path, &flags));
        assert_eq!(found["model"], path);
        found["model"] = expected["model"].clone();
        assert_eq!(probed["probe"]["shapes"], here["probe"]["shapes"], "{there}");
        assert_eq!(found["weights_bytes"], expected["weights_bytes"], "{there}");
        if there == "rename" {
            assert_eq!(found, expected);
            assert_eq!(probed["smallest_budget_bytes"], here["smallest_budget_bytes"]);
        }
    }
    let line = "plan m.safetensors --arch qwen-image-controlnet --convert nowhere.toml";
    assert!(run(line, dir.path(), 1).1.contains("nowhere.toml: No such file"));
    assert!(run("plan --check p.json --convert part.toml", dir.path(), 2).1.contains("<PATH>"));
}

#[test]
fn a_real_model_from_fused_weights() {
    let Some(model) = minilm() else {
        println!(
            "skipped: MiniLM is not here; `cargo xtask models` fetches it, or VRAM_MINILM names its folder"
        );
        return;
    };
    let dir = folder();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(model.join(file), dir.path().join(file)).unwrap();
    }
    let sentence = "sentence_bert_config.json";
    if model.join(sentence).exists() {
        fs::copy(model.join(sentence), dir.path().join(sentence)).unwrap();
    }
    let [q, k, v] = ["query", "key", "value"].map(|part| format!(".attention.self.{part}."));
    let fuse = format!(
        "concat = {{ tensors = {{ regex = '{q}' }}, parts = ['{q}', '{k}', '{v}'], into = '.qkv.' }}"
    );
    let part = format!("split = {{ tensors = {{ regex = '[.]qkv[.]' }}, into = ['{q}', '{k}', '{v}'] }}");
    write(dir.path(), "fuse.toml", &format!("[[rule]]\n{fuse}\n"));
    write(dir.path(), "part.toml", &format!("[[rule]]\n{part}\n"));
    let line = ["extract", model.to_str().unwrap(), "--convert", "fuse.toml", "-o", "model.safetensors"];
    assert!(vram(&line, dir.path()).status.success());
    let embed = |flags: &[&str]| -> Value {
        let out =
            vram(&[&["embed", "--json", "a cat on a mat", "weights on a disk"], flags].concat(), dir.path());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let plain = embed(&["--model", model.to_str().unwrap()]);
    assert!(!vram(&["embed", "--model", ".", "x"], dir.path()).status.success(), "its names differ");
    let parted = embed(&["--model", ".", "--convert", "part.toml", "--budget", "22MiB", "--passes", "2"]);
    assert_eq!(parted["embeddings"], plain["embeddings"]);
    assert!(parted["report"]["peak_bytes"].as_u64().unwrap() <= 22 << 20);
}

#[test]
fn what_is_wrong_with_rules_and_names_is_said_in_one_line() {
    let dir = folder();
    run(&format!("{SMALL} -o m.safetensors"), dir.path(), 0);
    write(dir.path(), "none.toml", "[[rule]]\n\nsplt = {}\n");
    write(dir.path(), "name.toml", "\n[[rule]]\ndrop = { tensors = 'img_in.wieght' }\n");
    write(dir.path(), "size.toml", "[[rule]]\nsplit = { tensors = 'img_in.bias', into = ['a', 'b', 'c'] }\n");
    for (line, expected) in [
        ("extract m.safetensors --tensors img_in.wieght -o y", r#"similar names are "img_in.weight""#),
        (
            "extract m.safetensors --tensors nothing.* --tensors x -o y",
            "no tensor matches nothing.* or x; similar",
        ),
        ("inspect m.safetensors --convert nowhere.toml", "nowhere.toml: No such file"),
        ("inspect m.safetensors --convert none.toml", "none.toml: line 3: unknown variant `splt`"),
        (
            "inspect m.safetensors --convert name.toml",
            "m.safetensors: name.toml: line 2: rule 1 (drop): tensor \"img_in.wieght\": there is no tensor of this name; similar names are \"img_in.weight\"",
        ),
        (
            "extract m.safetensors -o y --convert size.toml",
            "size.toml: line 1: rule 1 (split): tensor \"img_in.bias\": extent 0, which is 64, has no 3 equal parts",
        ),
    ] {
        let (stdout, stderr) = run(line, dir.path(), 1);
        assert!(stdout.is_empty() && stderr.contains(expected), "vram {line}: {stderr}");
        assert!(stderr.starts_with("error: "), "vram {line}: {stderr}");
        // A line of a file is shown below the line that says what is wrong with it.
        let shown = if line.contains("none.toml") { "\n  |\n3 | splt = {}\n  | ^^^^\n" } else { "\n" };
        assert!(stderr.split_once('\n').unwrap().1 == &shown[1..], "vram {line}: {stderr}");
    }
    let (text, _) = run("inspect m.safetensors --tensors img_in.bias", dir.path(), 0);
    assert!(text.contains("1 tensor of BF16") && text.contains("1 tensor in all"), "{text}");
    let (_, text) = run("extract m.safetensors --tensors img_in.bias -o one.safetensors", dir.path(), 0);
    assert!(text.contains("1 tensor, 128 B in "), "{text}");
    assert!(
        run("diff one.safetensors one.safetensors", dir.path(), 0).0.contains("equal; 1 tensor compared")
    );
}
