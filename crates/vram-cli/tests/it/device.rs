//! `--device`: computing on other devices than the CPU, and the errors if that is not possible.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::engine::{FORWARD, golden, minilm, tensor, with_golden};
use crate::{folder, json as vram_json, run, vram};

/// The entry of a backend in `vram devices`, if it is available. Otherwise checks that using it
/// gives the reason.
fn found(backend: &str, built_in: bool) -> Option<Value> {
    let dir = with_golden();
    let found = vram_json("devices", dir.path());
    let devices = found["devices"].as_array().unwrap();
    let device = devices.iter().find(|d| d["name"] == backend).unwrap().clone();
    if device["available"] == json!(true) {
        assert!(built_in && !device["adapters"].as_array().unwrap().is_empty(), "{device}");
        return Some(device);
    }
    let reason = device["reason"].as_str().unwrap();
    assert_eq!(reason.contains(&format!("--features {backend}")), !built_in, "{reason}");
    let (_, error) = run(&format!("{FORWARD} --device {backend} --budget 1MiB"), dir.path(), 1);
    assert!(error.contains("is not available") && error.contains(reason), "{error}");
    println!("skipped: {reason}");
    None
}

fn adapter() -> Option<Value> {
    found("wgpu", cfg!(feature = "wgpu"))
}

#[test]
fn a_forward_on_cuda_equals_pytorch_under_every_budget() {
    let Some(cuda) = found("cuda", cfg!(feature = "cuda")) else { return };
    assert_eq!((&cuda["memory"], &cuda["kernels"]), (&json!("discrete"), &json!("queued")));
    assert_eq!(cuda["separate_copy_queue"], json!(true));
    let dir = with_golden();
    let forward = |flags: &str| forward(dir.path(), flags);
    let (resident, smallest) = forward("--device cuda:0");
    assert!(forward(&format!("--device cuda --budget {smallest} --passes 2")).0 == resident);
    let (_, error) = run(&format!("{FORWARD} --device cuda:1000 --budget 1MiB"), dir.path(), 1);
    assert!(error.contains("cuda:1000"), "{error}");
}

/// Runs a forward in f32, checks it against PyTorch, and returns the output and the smallest
/// budget.
fn forward(dir: &Path, flags: &str) -> (Vec<u8>, String) {
    let report = vram_json(&format!("{FORWARD} --dtype f32 {flags}"), dir);
    assert!(report["peak_bytes"].as_u64() <= report["budget_bytes"].as_u64(), "{report}");
    assert!(relative_error(dir) < 1e-5, "{flags}: {}", relative_error(dir));
    (fs::read(dir.join("out.safetensors")).unwrap(), report["smallest_budget_bytes"].to_string())
}

fn relative_error(dir: &Path) -> f64 {
    let (_, actual) = tensor(&dir.join("out.safetensors"), "output");
    let (_, expected) = tensor(&golden("controlnet_small_io.safetensors"), "expected.f32");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = actual.iter().zip(&expected).map(|(a, e)| square(a - e)).sum();
    let norm: f64 = expected.iter().map(|e| square(*e)).sum();
    (error / norm).sqrt()
}

#[test]
fn a_forward_on_an_adapter_equals_pytorch_under_every_budget() {
    let Some(wgpu) = adapter() else { return };
    let name = wgpu["adapters"][0].as_str().unwrap().split(' ').next().unwrap().to_uppercase();
    let dir = with_golden();
    let forward = |flags: &str| forward(dir.path(), flags);
    let (resident, smallest) = forward("--device wgpu:0 --budget 64MiB");
    assert!(forward(&format!("--device wgpu:{name} --budget {smallest} --passes 2")).0 == resident);
    let (text, _) = run("devices", dir.path(), 0);
    assert!(text.contains("wgpu:0") && text.contains("memory unknown"), "{text}");

    for (flags, expected) in [
        // wgpu does not report free memory, so a size is required.
        ("--device wgpu", "pass the budget as a size"),
        ("--device wgpu:1000 --budget 1MiB", "there is no wgpu:1000 among"),
        ("--device wgpu --budget 1MiB --threads 2", "--threads is only for the cpu"),
        ("--device wgpu --budget 1KiB", "it runs with --budget"),
    ] {
        let (_, error) = run(&format!("{FORWARD} {flags}"), dir.path(), 1);
        assert!(error.contains(expected), "{flags}: {error}");
    }
}

#[test]
fn sentences_on_an_adapter_are_near_those_of_the_cpu() {
    let Some(_) = adapter() else { return };
    let Some(model) = minilm() else {
        return println!(
            "skipped: MiniLM is not here; `cargo xtask models` fetches it, or VRAM_MINILM names its folder"
        );
    };
    let embed = |flags: &[&str]| -> Vec<f64> {
        let command = ["embed", "--json", "--model", model.to_str().unwrap(), "a cat"];
        let out = vram(&[&command, flags].concat(), folder().path());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let document: Value = serde_json::from_slice(&out.stdout).unwrap();
        document["embeddings"][0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let (cpu, wgpu) = (embed(&[]), embed(&["--device", "wgpu", "--budget", "24MiB"]));
    let worst = cpu.iter().zip(&wgpu).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("vram embed on wgpu: {worst:.2e} from the cpu at most");
    assert!(cpu.len() == wgpu.len() && worst < 2e-5, "{worst}");
}

/// With `--from host`, weights that do not fit on the device are read once; without it, in each
/// pass.
#[test]
fn weights_wait_in_host_memory_where_that_is_asked_for() {
    let dir = with_golden();
    let (_, error) = run(&format!("{FORWARD} --from host"), dir.path(), 1);
    assert!(
        error.contains("--from host is for devices with their own memory: cpu uses host memory"),
        "{error}"
    );
    for (backend, built_in) in [("cuda", cfg!(feature = "cuda")), ("wgpu", cfg!(feature = "wgpu"))] {
        if found(backend, built_in).is_none() {
            continue;
        }
        let (resident, smallest) = forward(dir.path(), &format!("--device {backend} --budget 64MiB"));
        let line = format!("{FORWARD} --dtype f32 --device {backend} --budget {smallest} --passes 4");
        let report = |flags: &str| {
            let report = vram_json(&format!("{line} {flags}"), dir.path());
            assert!(fs::read(dir.path().join("out.safetensors")).unwrap() == resident, "{backend} {flags}");
            assert!(report["host_peak_bytes"].as_u64() <= report["host_budget_bytes"].as_u64(), "{report}");
            report
        };
        let (disk, host) = (report(""), report("--from host --host-budget 128MiB"));
        assert_eq!((&disk["from"], &host["from"]), (&json!("disk"), &json!("host")));
        assert_eq!(report("--from disk")["from"], "disk");
        let last = |report: &Value| report["passes"][3]["disk_bytes"].as_u64().unwrap();
        assert!(last(&disk) > 0 && last(&host) == 0, "{disk} {host}");
        let held = |report: &Value| report["host_peak_bytes"].as_u64().unwrap();
        assert!(held(&host) > held(&disk), "{disk} {host}");
        let (text, _) = run(&format!("{line} --from host"), dir.path(), 0);
        assert!(text.contains("most held on the host"), "{text}");
    }
}

#[test]
fn sentences_are_the_same_wherever_weights_wait() {
    let Some(_) = found("cuda", cfg!(feature = "cuda")) else { return };
    let Some(model) = minilm() else {
        return println!(
            "skipped: MiniLM is not here; `cargo xtask models` fetches it, or VRAM_MINILM names its folder"
        );
    };
    let embed = |from: &str| -> Value {
        let line =
            format!("embed --json --device cuda --budget 24MiB --host-budget 256MiB --from {from} --model");
        let mut args: Vec<&str> = line.split(' ').collect();
        args.extend([model.to_str().unwrap(), "a cat"]);
        let out = vram(&args, folder().path());
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let (disk, host) = (embed("disk"), embed("host"));
    assert_eq!(disk["embeddings"], host["embeddings"]);
    assert_eq!((&disk["report"]["from"], &host["report"]["from"]), (&json!("disk"), &json!("host")));
}

#[test]
fn whoever_asks_how_devices_are_named_is_told_of_all() {
    for command in ["plan", "forward", "embed"] {
        let (help, _) = run(&format!("{command} --help"), folder().path(), 0);
        assert!(help.contains("--device <cpu|cuda[:N|:NAME]|wgpu[:N|:NAME]>"), "{help}");
    }
}

#[test]
fn a_plan_for_an_adapter_is_made_from_a_probe_of_it() {
    if adapter().is_some() {
        is_planned_from_a_probe("wgpu");
    }
}

#[test]
fn a_plan_for_a_card_is_made_from_a_probe_of_it() {
    if found("cuda", cfg!(feature = "cuda")).is_some() {
        is_planned_from_a_probe("cuda");
    }
}

fn is_planned_from_a_probe(backend: &str) {
    let dir = folder();
    run(
        "synth --arch qwen-image-controlnet --blocks 6 --width 256 --in-dim 16 -o m.safetensors",
        dir.path(),
        0,
    );
    let plan = format!("plan m.safetensors --arch qwen-image-controlnet --tokens 8 --device {backend}");
    for from in ["disk", "host"] {
        let plan = vram_json(&format!("{plan} --budget 900KiB --from {from}"), dir.path());
        assert!(plan["machine"].as_str().unwrap().contains(&format!("{backend}: ")), "{plan}");
        assert_eq!((&plan["memory"], &plan["probe"]["shapes"]), (&json!("discrete"), &json!(5)));
        assert!(plan["probe"]["bus_bytes_per_second"].as_f64().unwrap() > 0.0, "{plan}");
        assert!(plan["peak_bytes"].as_u64() <= Some(900 << 10));
        assert_eq!(plan["host_bytes"].as_u64() > Some(0), from == "host", "{plan}");
        assert!(plan["units"][0]["compute_seconds"].as_f64().unwrap() > 0.0, "{plan}");
    }
    let (text, _) = run(&format!("{plan} --budget 900KiB"), dir.path(), 0);
    assert!(text.contains("copies to the device at "), "{text}");
    // `forward` needs exactly what the plan says.
    let minimum = vram_json(&format!("{plan} --budget 900KiB"), dir.path())["smallest_budget_bytes"].clone();
    run(
        "synth --arch qwen-image-controlnet --width 256 --in-dim 16 --inputs 8 -o in.safetensors",
        dir.path(),
        0,
    );
    let forward = "forward --arch qwen-image-controlnet --weights m.safetensors --input in.safetensors -o o.safetensors";
    let line = format!("{forward} --device {backend} --budget {minimum} --dtype bf16");
    let report = vram_json(&line, dir.path());
    assert_eq!(report["smallest_budget_bytes"], minimum);
}
