//! `vram plan`, and what runs report about themselves.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::engine::{FORWARD, with_golden};
use crate::{folder, json as vram_json, run};

const MODEL: &str = "synth --arch qwen-image-controlnet --blocks 6 --width 256 --in-dim 16 -o m.safetensors";
const PLAN: &str = "plan m.safetensors --arch qwen-image-controlnet --tokens 8";
/// About half of the weights.
const HALF: &str = "--budget 900KiB";

fn with_model() -> tempfile::TempDir {
    let dir = folder();
    run(MODEL, dir.path(), 0);
    dir
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Checks what holds for every plan.
fn consistent(plan: &Value) {
    let bytes = |field: &str| plan[field].as_u64().unwrap();
    assert!(
        bytes("peak_bytes") <= bytes("budget_bytes")
            && bytes("smallest_budget_bytes") <= bytes("budget_bytes")
    );
    let units = plan["units"].as_array().unwrap();
    let sum = |of: &dyn Fn(&Value) -> f64| units.iter().map(of).sum::<f64>();
    let stays = |u: &Value| u["resident"].as_bool().unwrap();
    let resident = sum(&|u| if stays(u) { number(&u["bytes"]) } else { 0.0 });
    assert_eq!(resident as u64, bytes("resident_bytes"), "every unit of this model is used once");
    assert_eq!(
        bytes("peak_bytes"),
        bytes("resident_bytes") + bytes("ring_bytes") + bytes("workspace_bytes"),
        "{plan}"
    );
    let compute = sum(&|u| number(&u["compute_seconds"]));
    let transfer = sum(&|u| if stays(u) { 0.0 } else { number(&u["transfer_seconds"]) });
    let bound = number(&plan["bound_seconds"]);
    // Each time is rounded to nanoseconds.
    assert!((compute.max(transfer) / bound - 1.0).abs() < 1e-3, "{compute} {transfer} {bound}");
    assert!(number(&plan["pass_seconds"]) >= 0.999 * bound);
    let curve = plan["curve"].as_array().unwrap();
    assert_eq!(curve.len(), 24);
    assert_eq!(curve[0]["budget_bytes"], plan["smallest_budget_bytes"]);
    let budgets: Vec<u64> = curve.iter().map(|p| p["budget_bytes"].as_u64().unwrap()).collect();
    assert!(budgets.is_sorted_by(|a, b| a < b), "{budgets:?}");
    assert!(number(&curve[23]["pass_seconds"]) < number(&curve[0]["pass_seconds"]), "{plan}");
}

#[test]
fn every_profile_plans_and_the_numbers_agree() {
    let dir = with_model();
    for (profile, waits) in [
        ("rtx4090-pcie4", "host"),
        ("rtx3060-pcie3", "host"),
        ("h100-pcie5", "host"),
        ("igpu-shared", "disk"),
    ] {
        let plan = vram_json(&format!("{PLAN} {HALF} --profile {profile}"), dir.path());
        consistent(&plan);
        assert_eq!(plan["from"], waits, "{profile}");
        assert!(["compute", "bus", "disk"].iter().any(|l| plan["limited_by"] == *l), "{plan}");
        assert!(plan["machine"].as_str().unwrap().starts_with(profile));
        assert_eq!((&plan["probe"], &plan["tokens"]), (&Value::Null, &json!(8)));
        // The same question gives the same plan.
        assert_eq!(vram_json(&format!("{PLAN} {HALF} --profile {profile}"), dir.path()), plan);
    }
}

#[test]
fn where_weights_wait_sets_the_link() {
    let dir = with_model();
    let plan = |flags: &str| {
        vram_json(&format!("{PLAN} --budget 400KiB --profile rtx3060-pcie3 {flags}"), dir.path())
    };
    let (host, disk) = (plan("--from host"), plan("--from disk"));
    consistent(&host);
    consistent(&disk);
    let all = |plan: &Value| -> f64 {
        plan["units"].as_array().unwrap().iter().map(|u| number(&u["transfer_seconds"])).sum()
    };
    assert!(all(&disk) > 2.0 * all(&host), "a disk of 3.15 GB/s against a bus of 12.6");
    assert_eq!((&disk["limited_by"], &disk["host_bytes"]), (&json!("disk"), &json!(0)));
    assert!(host["host_bytes"].as_u64().unwrap() > 0 && host["limited_by"] != "disk");
    // The weights do not all fit in host memory, so by default they are read from disk.
    let small = plan("--host-budget 600KiB");
    assert_eq!(small["from"], "disk");
    let some = plan("--host-budget 900KiB --from host");
    let at = |kept: &str| some["units"].as_array().unwrap().iter().filter(|u| u["kept"] == kept).count();
    assert!(at("host") > 0 && at("source") > 0, "{some}");
    assert!(some["host_peak_bytes"].as_u64() <= some["host_budget_bytes"].as_u64());
}

#[test]
fn this_machine_is_probed() {
    let dir = with_model();
    for from in ["disk", "host"] {
        let plan = vram_json(&format!("{PLAN} {HALF} --from {from}"), dir.path());
        consistent(&plan);
        let probe = &plan["probe"];
        assert!(
            number(&probe["read_bytes"]) > 1e6 && number(&probe["read_bytes_per_second"]) > 0.0,
            "{probe}"
        );
        // img_in, the two linears of a block, and its two norms: each with what is computed behind it.
        assert_eq!((&probe["shapes"], &plan["from"]), (&json!(5), &json!(from)));
        assert!(number(&plan["units"][0]["compute_seconds"]) > 0.0);
    }
    // `forward` needs exactly what the plan says.
    let minimum = vram_json(&format!("{PLAN} {HALF}"), dir.path())["smallest_budget_bytes"].clone();
    run(
        "synth --arch qwen-image-controlnet --width 256 --in-dim 16 --inputs 8 -o in.safetensors",
        dir.path(),
        0,
    );
    let forward = "forward --arch qwen-image-controlnet --weights m.safetensors --input in.safetensors -o out.safetensors";
    let report = vram_json(&format!("{forward} --budget {minimum} --dtype bf16"), dir.path());
    assert!(report["peak_bytes"].as_u64().unwrap() <= minimum.as_u64().unwrap());
}

#[test]
fn a_plan_is_read_by_people() {
    let dir = with_model();
    let (text, _) =
        run(&format!("{PLAN} {HALF} --profile rtx3060-pcie3 --svg c.svg --save p.json"), dir.path(), 0);
    for word in
        ["smallest that works", "ring", "bound", "set by the ", "from host memory", "time of a pass", "▲"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    let svg = fs::read_to_string(dir.path().join("c.svg")).unwrap();
    let opened = svg.matches("<text").count();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && opened == svg.matches("</text>").count());
    for word in
        ["Time of a pass over the device budget", "device budget, MiB", "time of a pass, ", "chosen", "bound"]
    {
        assert!(svg.contains(word), "{word}: {svg}");
    }
    let (text, _) = run("plan --check p.json", dir.path(), 0);
    assert!(text.starts_with("p.json: safe; "), "{text}");
}

/// Ways to damage a plan, each with the checker's message.
#[test]
fn a_damaged_plan_is_refused_in_words() {
    let dir = with_model();
    run(&format!("{PLAN} {HALF} --profile rtx3060-pcie3 --save p.json"), dir.path(), 0);
    let plan = read(&dir.path().join("p.json"));
    assert_eq!(vram_json("plan --check p.json", dir.path())["safe"], true);
    let check = |what: &str, expected: &str, damage: &dyn Fn(&mut Value)| {
        let mut wrong = plan.clone();
        damage(&mut wrong);
        fs::write(dir.path().join("w.json"), wrong.to_string()).unwrap();
        let (stdout, stderr) = run("plan --check w.json --json", dir.path(), 1);
        assert!(
            stdout.is_empty() && stderr.contains("w.json") && stderr.contains(expected),
            "{what}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{what}: {stderr}");
    };
    check("less budget", "bytes are held on the device", &|p| p["budget_bytes"] = json!(1000));
    check("a fetch less", "which is not on the device then", &|p| {
        p["fetches"].as_array_mut().unwrap().remove(0);
    });
    check("a place beyond the ring", "leaves the ring", &|p| p["fetches"][0]["at"] = json!(1u64 << 40));
    check("two in one place", "overwrites", &|p| {
        let fetches = p["fetches"].as_array_mut().unwrap();
        let last = fetches.iter().rposition(|f| f["after"] == fetches[0]["after"]).unwrap();
        assert!(last > 0, "the ring holds two at the beginning");
        fetches[1]["at"] = fetches[0]["at"].clone();
    });
    check("a wrong sum", "residents are", &|p| p["resident_bytes"] = json!(1));
    check("another unit", "there is no unit 99", &|p| {
        let uses = p["trace"].as_array().unwrap();
        let resident = uses.iter().position(|u| p["units"][u.as_u64().unwrap() as usize]["kept"] == "device");
        p["trace"][resident.expect("half of the weights stay")] = json!(99);
    });
    check("no passes", "no fetch of them is listed", &|p| p["passes"] = json!(0));
    check("no number", "is not a plan", &|p| p["ring_bytes"] = json!("much"));
    check("no plan", "is not a plan", &|p| *p = json!([]));
    assert!(run("plan --check nowhere.json", dir.path(), 1).1.contains("nowhere.json"));
}

#[test]
fn what_cannot_be_planned_is_said() {
    let dir = with_model();
    for (line, expected) in [
        (format!("{PLAN} --profile rtx9090"), "rtx4090-pcie4, rtx3060-pcie3, igpu-shared, h100-pcie5"),
        (format!("{PLAN} --budget 4KiB --profile h100-pcie5"), "it runs with --budget "),
        (
            format!("{PLAN} --profile broken.toml"),
            "broken.toml\": TOML parse error at line 1, column 9: invalid type: integer `3`, expected a string\n  |\n1 | about = 3\n",
        ),
        ("plan nowhere.safetensors --arch bert".to_owned(), "nowhere.safetensors"),
        ("plan m.safetensors --arch bert".to_owned(), "config.json is needed in the folder of the weights"),
    ] {
        fs::write(dir.path().join("broken.toml"), "about = 3").unwrap();
        let (stdout, stderr) = run(&line, dir.path(), 1);
        assert!(stdout.is_empty() && stderr.contains(expected), "vram {line}: {stderr}");
        assert!(stderr.starts_with("error: "), "vram {line}: {stderr}");
        // A line of a file is shown below the line that says what is wrong with it.
        let lines = if line.contains("broken.toml") { 4 } else { 1 };
        assert_eq!(stderr.lines().count(), lines, "vram {line}: {stderr}");
    }
    for (line, expected) in [
        ("plan", "<PATH>"),
        ("plan m.safetensors", "--arch"),
        ("plan m.safetensors --arch bert --from tape", "host"),
        ("plan --check p.json --svg c.svg", "<PATH>"),
        ("plan m.safetensors --arch bert --tokens 0", "at least 1"),
    ] {
        let (stdout, stderr) = run(line, dir.path(), 2);
        assert!(stdout.is_empty() && stderr.contains(expected), "vram {line}: {stderr}");
    }
}

#[test]
fn a_profile_of_ones_own_is_taken() {
    let dir = with_model();
    let text = include_str!("../../../vram-layers/profiles/rtx3060-pcie3.toml");
    let slow = text.replace("bytes_per_second = 12.6e9", "bytes_per_second = 1.26e9");
    assert_ne!(slow, text);
    fs::write(dir.path().join("slow.toml"), slow).unwrap();
    let seconds = |profile: &str| {
        let plan = vram_json(&format!("{PLAN} --budget 400KiB --profile {profile}"), dir.path());
        number(&plan["bound_seconds"])
    };
    assert!(seconds("slow.toml") > 2.0 * seconds("rtx3060-pcie3"));
}

#[test]
fn a_trace_tells_of_the_bytes_that_the_report_has() {
    let dir = with_golden();
    for passes in [1, 3] {
        let line = format!("{FORWARD} --budget 400KiB --passes {passes} --trace t.json");
        let report = vram_json(&line, dir.path());
        let trace = read(&dir.path().join("t.json"));
        let events = trace["traceEvents"].as_array().unwrap();
        let slices = |category: &str| -> Vec<&Value> {
            events.iter().filter(|e| e["cat"] == category && e["ph"] == "X").collect()
        };
        let traced: u64 = slices("disk").iter().map(|e| e["args"]["bytes"].as_u64().unwrap()).sum();
        let reported: u64 =
            report["passes"].as_array().unwrap().iter().map(|p| p["disk_bytes"].as_u64().unwrap()).sum();
        // A new plan after a pass drops units that were read ahead for the old one, and nothing
        // used those.
        assert!(reported > 0 && traced >= reported, "{traced} {reported}");
        assert!(passes > 1 || traced == reported, "{traced} {reported}");
        assert_eq!(slices("passes").len(), passes);
        assert!(!slices("compute").is_empty());
    }
    assert!(
        run(&format!("{FORWARD} --trace no/such/folder/t.json"), dir.path(), 1).1.contains("no/such/folder")
    );
}

#[test]
fn a_report_says_what_was_predicted_and_waited_for() {
    let dir = with_golden();
    // So little that no unit can be read before the one before it is done: with more, a quick disk is never waited for.
    let (text, _) = run(&format!("{FORWARD} --budget 179KiB --passes 4"), dir.path(), 0);
    for word in ["predicted", "bound", "waited for weights: ", "longest for: "] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let report = vram_json(&format!("{FORWARD} --budget 400KiB --passes 2"), dir.path());
    for pass in report["passes"].as_array().unwrap() {
        for field in ["seconds", "predicted_seconds", "bound_seconds", "stall_seconds", "compute_seconds"] {
            assert!(pass[field].is_number(), "{field}: {pass}");
        }
        let waited: f64 = pass["stalls"].as_array().unwrap().iter().map(|s| number(&s["seconds"])).sum();
        assert!((waited - number(&pass["stall_seconds"])).abs() < 1e-9, "{pass}");
    }
}

#[test]
fn a_budget_can_be_what_is_free_but_some() {
    let dir = with_golden();
    let total = vram_json("devices", dir.path())["devices"][0]["memory_total_bytes"].as_u64().unwrap();
    let report = vram_json(&format!("{FORWARD} --budget free-1GiB"), dir.path());
    assert!(report["budget_bytes"].as_u64().unwrap() <= total - (1 << 30), "{report}");
    let (_, error) = run(&format!("{FORWARD} --budget free-9999GiB"), dir.path(), 1);
    assert!(error.contains("the budget is too small: 0 bytes"), "{error}");
}
