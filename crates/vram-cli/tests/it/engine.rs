//! Commands that run a network, compared with the results of PyTorch.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vram_diskmap::{DiskMap, SafetensorsWriter, extract};
use vram_types::cast::cast;
use vram_types::{CancelToken, DType, TensorMeta};

use crate::{SMALL, folder, json, run, vram};

pub(crate) fn golden(name: &str) -> PathBuf {
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../vram-models/tests/golden");
    models.join(name).canonicalize().unwrap()
}

/// The golden ControlNet and its inputs, copied to where relative paths find them. The inputs are
/// without the outputs that lie beside them.
pub(crate) fn with_golden() -> tempfile::TempDir {
    let dir = folder();
    let name = "controlnet_small.safetensors";
    fs::copy(golden(name), dir.path().join(name)).unwrap();
    let both = DiskMap::open(golden("controlnet_small_io.safetensors")).unwrap();
    let inputs = dir.path().join("inputs.safetensors");
    extract(&both, &["img", "conditioning"], None, &inputs, &CancelToken::new(), &mut |_| {}).unwrap();
    dir
}

pub(crate) fn minilm() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places =
        [std::env::var_os("VRAM_MINILM").map(PathBuf::from), Some(root.join("target/models/minilm"))];
    places.into_iter().flatten().find(|p| p.join("model.safetensors").exists())
}

pub(crate) const FORWARD: &str = "forward --arch qwen-image-controlnet --weights controlnet_small.safetensors \
                       --input inputs.safetensors --force -o out.safetensors";

pub(crate) fn tensor(path: &Path, name: &str) -> (DType, Vec<f32>) {
    let tensor = DiskMap::open(path).unwrap().get(name).unwrap();
    let mut wide = vec![0; tensor.meta().elements() as usize * 4];
    cast(tensor.bytes(), tensor.meta().dtype(), &mut wide, DType::F32).unwrap();
    let values = wide.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (tensor.meta().dtype(), values.collect())
}

fn write(path: &Path, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) {
    let meta = TensorMeta::new(dtype, shape).unwrap();
    let mut writer = SafetensorsWriter::create(path, [(name, meta)], &[]).unwrap();
    writer.write(bytes).unwrap();
    writer.finish().unwrap();
}

#[test]
fn forward_equals_pytorch_and_no_flag_changes_a_bit() {
    let dir = with_golden();
    let out = dir.path().join("out.safetensors");
    let (_, expected) = tensor(&golden("controlnet_small_io.safetensors"), "expected.f32");
    for (name, dtype, tolerance) in [("f32", DType::F32, 1e-5), ("bf16", DType::BF16, 1.5e-2)] {
        let report = json(&format!("{FORWARD} --dtype {name}"), dir.path());
        let (computed, actual) = tensor(&out, "output");
        assert_eq!((computed, report["dtype"].as_str()), (dtype, Some(name)));
        let square = |x: f32| f64::from(x) * f64::from(x);
        let error: f64 = actual.iter().zip(&expected).map(|(a, e)| square(a - e)).sum();
        let norm: f64 = expected.iter().map(|e| square(*e)).sum();
        assert!((error / norm).sqrt() < tolerance, "{name}: {}", (error / norm).sqrt());

        let resident = fs::read(&out).unwrap();
        let smallest = report["smallest_budget_bytes"].as_u64().unwrap();
        for flags in [
            format!("--budget {smallest} --passes 3 --report r.json"),
            format!("--budget {} --threads 1 --read direct", smallest + 300_000),
            "--budget 1MiB --read pread --threads 3".to_owned(),
            "--budget 1MiB --read mmap --passes 2".to_owned(),
        ] {
            let report = json(&format!("{FORWARD} --dtype {name} {flags}"), dir.path());
            assert!(fs::read(&out).unwrap() == resident, "{name} {flags}");
            assert!(report["peak_bytes"].as_u64() <= report["budget_bytes"].as_u64(), "{report}");
        }
        let report: Value =
            serde_json::from_str(&fs::read_to_string(dir.path().join("r.json")).unwrap()).unwrap();
        assert_eq!(report["passes"].as_array().unwrap().len(), 3);
        assert_eq!((&report["budget_bytes"], &report["read"]), (&json!(smallest), &json!("auto")));
    }
    let (text, _) = run(FORWARD, dir.path(), 0);
    assert!(
        ["budget", "smallest that works", "waited", "out.safetensors"].iter().all(|w| text.contains(w)),
        "{text}"
    );
}

#[test]
fn a_budget_that_is_too_small_says_what_to_type() {
    let dir = with_golden();
    let (_, error) = run(&format!("{FORWARD} --budget 4KiB"), dir.path(), 1);
    let flag = error.trim().rsplit_once("it runs with ").unwrap().1.to_owned();
    assert!(error.contains("the smallest that works is") && flag.starts_with("--budget "), "{error}");
    assert!(!dir.path().join("out.safetensors").exists());
    run(&format!("{FORWARD} {flag}"), dir.path(), 0);
    let one_less = flag["--budget ".len()..].parse::<u64>().unwrap() - 1;
    assert!(run(&format!("{FORWARD} --budget {one_less}"), dir.path(), 1).1.contains(&flag));
}

#[test]
fn what_is_wrong_with_an_input_is_said_in_one_line() {
    let dir = with_golden();
    let at = |name: &str| dir.path().join(name);
    run(&format!("{SMALL} -o narrow.safetensors"), dir.path(), 0);
    fs::write(at("text.safetensors"), "this is a text and no checkpoint at all").unwrap();
    write(&at("other.safetensors"), "image", DType::F32, &[1], &[0; 4]);
    let ints = ["img", "conditioning"].map(|name| (name, TensorMeta::new(DType::I32, [1]).unwrap()));
    let mut writer = SafetensorsWriter::create(at("ints.safetensors"), ints, &[]).unwrap();
    writer.write(&[0; 8]).unwrap();
    writer.finish().unwrap();
    fs::create_dir(at("bert")).unwrap();
    fs::copy(golden("controlnet_small.safetensors"), at("bert/model.safetensors")).unwrap();
    fs::write(at("bert/config.json"), r#"{"num_attention_heads": 4}"#).unwrap();
    let good = ["qwen-image-controlnet", "controlnet_small.safetensors", "inputs.safetensors"];
    for (which, wrong, expected) in [
        (1, "nowhere.safetensors", "nowhere.safetensors"),
        (2, "nowhere.safetensors", "nowhere.safetensors"),
        (1, "text.safetensors", "text.safetensors"),
        (2, "text.safetensors", "text.safetensors"),
        (1, "other.safetensors", "not a Qwen-Image ControlNet: it has no img_in.weight"),
        (1, "narrow.safetensors", "[.., tokens, 64] and [.., tokens, 16] are needed"),
        (2, "other.safetensors", r#"no tensor "img"; it has ["image"]"#),
        (2, "ints.safetensors", "I32, but must be F32, BF16 or F16"),
        (0, "bert", "config.json is needed in the folder of the weights"),
    ] {
        let mut words = good;
        words[which] = wrong;
        let [arch, weights, input] = words;
        let line =
            format!("forward --arch {arch} --weights {weights} --input {input} -o o.safetensors --json");
        let (stdout, stderr) = run(&line, dir.path(), 1);
        assert!(stdout.is_empty() && stderr.contains(expected), "vram {line}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "vram {line}: {stderr}");
        assert!(!at("o.safetensors").exists());
    }
    let line = "forward --arch bert --weights bert --input other.safetensors -o o.safetensors";
    assert!(run(line, dir.path(), 1).1.contains("this is not a BERT"), "a ControlNet is none");
    let line = format!("{FORWARD} -o no/such/folder/o.safetensors");
    let (_, stderr) = run(&line.replace("-o out.safetensors ", ""), dir.path(), 1);
    assert!(stderr.contains("no/such/folder"), "{stderr}");
}

#[test]
fn wrong_usage_of_the_engine_is_2() {
    let dir = folder();
    for (line, expected) in [
        ("embed --model x", "<TEXT>"),
        ("forward --arch gpt --weights x --input y -o z", "qwen-image-controlnet"),
        ("forward --arch bert --weights x --input y -o z --budget lots", "512MiB"),
        ("forward --arch bert --weights x --input y -o z --device toaster", "cpu"),
        ("forward --arch bert --weights x --input y -o z --passes 0", "at least 1"),
    ] {
        let (stdout, stderr) = run(line, dir.path(), 2);
        assert!(stdout.is_empty() && stderr.contains(expected), "vram {line}: {stderr}");
    }
}

#[test]
fn devices_say_what_is_here_and_why_not() {
    let dir = folder();
    let found = json("devices", dir.path());
    let devices = found["devices"].as_array().unwrap();
    let names: Vec<_> = devices.iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["cpu", "cuda", "wgpu"]);
    assert_eq!(devices[0]["available"], json!(true));
    for (device, built_in) in devices[1..].iter().zip([cfg!(feature = "cuda"), cfg!(feature = "wgpu")]) {
        let how = format!("--features {}", device["name"].as_str().unwrap());
        let reason = device["reason"].as_str().unwrap_or_default();
        assert_eq!(device["available"] == json!(false), !reason.is_empty(), "{device}");
        assert_eq!(reason.contains(&how), !built_in, "{device}");
    }
    assert!(devices[0]["memory_free_bytes"].as_u64() <= devices[0]["memory_total_bytes"].as_u64());
    let (text, _) = run("devices", dir.path(), 0);
    assert!(text.contains("free of"), "{text}");
    assert!(devices[0]["description"].as_str().unwrap().contains("threads"), "{found}");
}

#[test]
fn embeddings_equal_pytorch() {
    let Some(model) = minilm() else {
        println!(
            "skipped: MiniLM is not here; `cargo xtask models` fetches it, or VRAM_MINILM names its folder"
        );
        return;
    };
    let model = model.to_str().unwrap();
    let reference: Value = serde_json::from_str(&fs::read_to_string(golden("minilm.json")).unwrap()).unwrap();
    let texts: Vec<&str> =
        reference["sentences"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let (_, expected) = tensor(&golden("minilm_embeddings.safetensors"), "embeddings");
    let dir = folder();
    let embed = |flags: &[&str], texts: &[&str]| -> Value {
        let out = vram(&[&["embed", "--json", "--model", model], flags, texts].concat(), dir.path());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let floats = |row: &Value| -> Vec<f32> {
        row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let all = embed(&[], &texts);
    let rows: Vec<Vec<f32>> = all["embeddings"].as_array().unwrap().iter().map(floats).collect();
    let worst = rows.iter().flatten().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0f32, f32::max);
    println!("vram embed: largest error {worst:.2e}");
    assert_eq!(rows.concat().len(), expected.len());
    assert!(worst < 2e-5, "{worst}");
    assert!((all["similarity"][3][3].as_f64().unwrap() - 1.0).abs() < 1e-6);

    // No bit depends on the budget or on the other texts; the budget may split a group into
    // passes.
    let tight = embed(&["--budget", "22MiB", "--passes", "2"], &texts);
    assert_eq!(tight["embeddings"], all["embeddings"]);
    assert!(tight["report"]["peak_bytes"].as_u64().unwrap() <= 22 << 20);
    assert_eq!(embed(&[], &texts[2..3])["embeddings"][0], all["embeddings"][2]);
    let minimum = embed(&[], &texts[..1])["report"]["smallest_budget_bytes"].to_string();
    assert_eq!(embed(&["--budget", &minimum], &texts[..1])["embeddings"][0], all["embeddings"][0]);

    // An empty text consists of its two special tokens; a long one is truncated.
    let long = "offload ".repeat(3000);
    let odd = embed(&[], &["", &long]);
    let norm: f32 = floats(&odd["embeddings"][0]).iter().map(|x| x * x).sum();
    assert!((norm - 1.0).abs() < 1e-5, "{norm}");

    // The same tokens through `forward`, whose mean is what `embed` returns.
    let ids: Vec<i64> = serde_json::from_value(reference["token_ids"][0].clone()).unwrap();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    write(&dir.path().join("ids.safetensors"), "input_ids", DType::I64, &[1, ids.len()], &bytes);
    let weights = Path::new(model).join("model.safetensors");
    let forward =
        ["forward", "--arch", "bert", "--input", "ids.safetensors", "-o", "hidden.safetensors", "--weights"];
    let out = vram(&[&forward[..], &[weights.to_str().unwrap()]].concat(), dir.path());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let (_, hidden) = tensor(&dir.path().join("hidden.safetensors"), "last_hidden_state");
    let width = hidden.len() / ids.len();
    let sum: Vec<f32> = (0..width).map(|i| hidden.iter().skip(i).step_by(width).sum()).collect();
    let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!(sum.iter().zip(&rows[0]).all(|(a, b)| (a / norm - b).abs() < 1e-5));
}

/// A BERT of one layer with random weights, in `bert/`.
pub(crate) fn with_bert() -> tempfile::TempDir {
    let dir = folder();
    fs::create_dir(dir.path().join("bert")).unwrap();
    fs::write(dir.path().join("bert/config.json"), r#"{"num_attention_heads": 2}"#).unwrap();
    let layer = |name: &str| format!("encoder.layer.0.{name}");
    let mut tensors: Vec<(String, Vec<usize>)> = [("word", 11), ("position", 6), ("token_type", 2)]
        .map(|(name, rows)| (format!("embeddings.{name}_embeddings.weight"), vec![rows, 8]))
        .into();
    let mut linear = |name: String, outputs: usize, inputs: usize| {
        tensors.push((format!("{name}.weight"), vec![outputs, inputs]));
        tensors.push((format!("{name}.bias"), vec![outputs]));
    };
    for name in ["query", "key", "value"] {
        linear(layer(&format!("attention.self.{name}")), 8, 8);
    }
    linear(layer("attention.output.dense"), 8, 8);
    linear(layer("intermediate.dense"), 16, 8);
    linear(layer("output.dense"), 8, 16);
    for name in ["embeddings".to_owned(), layer("attention.output"), layer("output")] {
        tensors.push((format!("{name}.LayerNorm.weight"), vec![8]));
        tensors.push((format!("{name}.LayerNorm.bias"), vec![8]));
    }
    let metas =
        tensors.iter().map(|(name, shape)| (&**name, TensorMeta::new(DType::F32, &shape[..]).unwrap()));
    let path = dir.path().join("bert/model.safetensors");
    let mut writer = SafetensorsWriter::create(path, metas, &[]).unwrap();
    let count = writer.remaining() / 4;
    for i in 0..count {
        writer.write(&((i * 37 % 101) as f32 / 101.0 - 0.4).to_le_bytes()).unwrap();
    }
    writer.finish().unwrap();
    dir
}

/// Writes tensors of I64 to a file.
fn write_whole(path: &Path, tensors: &[(&str, &[usize], &[i64])]) {
    let metas = tensors.iter().map(|(name, shape, _)| (*name, TensorMeta::new(DType::I64, *shape).unwrap()));
    let mut writer = SafetensorsWriter::create(path, metas, &[]).unwrap();
    for number in tensors.iter().flat_map(|(_, _, numbers)| *numbers) {
        writer.write(&number.to_le_bytes()).unwrap();
    }
    writer.finish().unwrap();
}

/// `token_type_ids` and `attention_mask` were passed over without a word.
#[test]
fn every_input_is_used_or_refused_by_name() {
    let dir = with_bert();
    let at = |name: &str| dir.path().join(name);
    let line = "forward --arch bert --weights bert --input in.st --force -o out.st";
    let hidden = |tensors: &[(&str, &[usize], &[i64])]| {
        write_whole(&at("in.st"), tensors);
        run(line, dir.path(), 0);
        fs::read(at("out.st")).unwrap()
    };
    let ids: (&str, &[usize], &[i64]) = ("input_ids", &[2, 3], &[1, 2, 3, 4, 5, 10]);
    let plain = hidden(&[ids]);
    let ones: &[i64] = &[1; 6];
    assert!(hidden(&[ids, ("attention_mask", &[2, 3], ones)]) == plain);
    assert!(hidden(&[ids, ("token_type_ids", &[2, 3], &[0; 6])]) == plain);
    // Another type of the last token changes its own sequence and no other.
    let typed = hidden(&[ids, ("token_type_ids", &[2, 3], &[0, 0, 0, 0, 0, 1])]);
    let half = plain.len() - 3 * 8 * 4;
    assert!(typed[..half] == plain[..half] && typed[half..] != plain[half..]);

    for (tensor, expected) in [
        (
            ("position_ids", &[2, 3][..], ones),
            "\"position_ids\" would not be used: this model takes \"input_ids\", and optionally \"token_type_ids\" and \"attention_mask\"",
        ),
        (
            ("attention_mask", &[2, 3], &[1, 1, 1, 1, 1, 0]),
            "\"attention_mask\" has 0 at [1, 2]: attention with a mask is not built",
        ),
        (
            ("attention_mask", &[3, 2], ones),
            "\"attention_mask\" has shape [3, 2], but must have that of \"input_ids\", [2, 3]",
        ),
        (
            ("token_type_ids", &[2, 3], &[0, 0, 2, 0, 0, 0]),
            "\"token_type_ids\" has 2 at [0, 2], and the model has 2 types",
        ),
    ] {
        write_whole(&at("in.st"), &[ids, tensor]);
        let (_, stderr) = run(line, dir.path(), 1);
        assert!(stderr.starts_with("error: in.st: ") && stderr.contains(expected), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    for (ids, expected) in [
        (
            ("input_ids", &[1, 3][..], &[1, 11, 3][..]),
            "\"input_ids\" has 11 at [0, 1], and the model has 11 words",
        ),
        (("input_ids", &[1, 1], &[-1]), "\"input_ids\" has -1 at [0, 0]"),
        (("input_ids", &[1, 7], &[1; 7]), "sequences of 7 tokens, and the model has 6 positions"),
        (("input_ids", &[6], ones), "has shape [6], but must be [batch, tokens]"),
        (("input_ids", &[0, 4], &[]), "is empty"),
    ] {
        write_whole(&at("in.st"), &[ids]);
        let (_, stderr) = run(line, dir.path(), 1);
        assert!(stderr.starts_with("error: in.st: ") && stderr.contains(expected), "{stderr}");
    }
}
