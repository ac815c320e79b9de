//! The command as a tool for every day: help, logs, listings, and what is said when something is
//! not as it should be.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::engine::{FORWARD, minilm, with_bert, with_golden};
use crate::{SMALL, folder, json, run, vram};

const COMMANDS: [&str; 13] = [
    "inspect",
    "extract",
    "diff",
    "synth",
    "devices",
    "plan",
    "forward",
    "embed",
    "generate",
    "bench-model",
    "tokenize",
    "completions",
    "man",
];

/// Runs a command line with environment variables and a text for stdin.
fn with(line: &str, folder: &Path, variables: &[(&str, &str)], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vram"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn help_is_narrow_and_has_headings_and_examples() {
    let dir = folder();
    for command in COMMANDS.iter().chain(&[""]) {
        let (text, _) = run(&format!("{command} --help"), dir.path(), 0);
        let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 100, "{command}: {widest} columns");
        assert!(text.contains("\nOutput:\n"), "{command}: {text}");
        assert!(text.contains("\nExamples:\n") || *command == "devices", "{command}: {text}");
        // Examples have flags that exist.
        for word in text.split_whitespace().filter(|word| word.starts_with("--")) {
            let flag = word.trim_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
            let flag = flag.split(['=', '.', ',', '`', '<']).next().unwrap();
            assert!(!flag.is_empty() && flag.len() > 2, "{command}: {word}");
        }
    }
    let (text, _) = run("forward --help", dir.path(), 0);
    for heading in ["Memory (1KiB = 1Ki = 1K = 1024 bytes, 1KB = 1000 bytes):", "Computing:", "Reports:"] {
        assert!(text.contains(heading), "{heading}: {text}");
    }
    let (text, _) = run("--help", dir.path(), 0);
    assert!(text.contains("Exit code: 0 on success, 1 on failure, 2 for wrong usage."), "{text}");
}

#[test]
fn completions_and_manual_pages_come_from_the_definition() {
    let dir = folder();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (script, _) = run(&format!("completions {shell}"), dir.path(), 0);
        assert!(script.contains("host-budget") && script.contains("tokenize"), "{shell}");
    }
    let (page, _) = run("man", dir.path(), 0);
    assert!(page.contains(".TH vram 1") && page.contains("vram\\-forward(1)"), "{page}");
    for command in COMMANDS {
        let (page, _) = run(&format!("man {command}"), dir.path(), 0);
        assert!(page.contains(&format!(".TH vram-{command} 1")) && page.contains("\\-\\-quiet"), "{page}");
    }
    assert!(
        run("man dance", dir.path(), 1).1.contains("there is no subcommand \"dance\"; there are inspect")
    );
}

#[test]
fn the_version_says_commit_and_features() {
    let dir = folder();
    let (text, _) = run("--version", dir.path(), 0);
    let version = format!("vram {} (", env!("CARGO_PKG_VERSION"));
    assert!(text.starts_with(&version) && text.trim().ends_with(')') && text.contains("features"), "{text}");
    // A packaged crate lies in no checkout, or in one of something else.
    let is_ours = Command::new("git").args(["ls-files", "--error-unmatch", "build.rs"]).output();
    let is_ours = is_ours.is_ok_and(|out| out.status.success());
    assert_eq!(text.contains(" (commit "), is_ours, "{text}");
    assert_eq!(text.contains("features cuda, wgpu"), cfg!(all(feature = "cuda", feature = "wgpu")), "{text}");
    assert_eq!(run("-V", dir.path(), 0).0, format!("vram {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn logs_go_to_stderr_as_asked() {
    let dir = with_golden();
    let line = format!("{FORWARD} --budget 300KiB --passes 3");
    let quiet = with(&line, dir.path(), &[], "");
    assert_eq!(stderr(&quiet), "", "stdout has the report");
    for (flags, variable) in [("-v", ""), ("--verbose", "off"), ("", "vram_layers=debug"), ("", "debug")] {
        let out = with(&format!("{line} {flags}"), dir.path(), &[("RUST_LOG", variable)], "");
        assert!(out.status.success() && stderr(&out).contains("DEBUG vram_layers"), "{}", stderr(&out));
    }
    for variable in ["off", "other=debug"] {
        assert_eq!(stderr(&with(&line, dir.path(), &[("RUST_LOG", variable)], "")), "");
    }
    let wrong = with(&line, dir.path(), &[("RUST_LOG", "vram=loud")], "");
    assert!(wrong.status.success() && stderr(&wrong).starts_with("RUST_LOG=vram=loud is ignored"));
    assert!(!run(&format!("{SMALL} -o a.st"), dir.path(), 0).1.is_empty());
    assert_eq!(run(&format!("{SMALL} -o b.st -q"), dir.path(), 0).1, "");
    assert_eq!(run("inspect nowhere -q", dir.path(), 1).1.lines().count(), 1, "an error is said anyway");
    assert!(run("inspect a.st -q -v", dir.path(), 2).1.contains("cannot be used with"));
}

#[test]
fn errors_have_colour_where_that_is_wanted() {
    let dir = folder();
    let red = |flags: &str, variables: &[(&str, &str)]| {
        let text = stderr(&with(&format!("inspect nowhere {flags}"), dir.path(), variables, ""));
        assert!(text.contains("nowhere: No such file or directory\n"), "{text}");
        text.contains('\x1b')
    };
    assert!(!red("", &[]), "stderr is no terminal");
    assert!(red("--color always", &[("NO_COLOR", "1")]) && red("--color=always", &[]));
    assert!(!red("--color never", &[]));
    let usage = stderr(&with("inspect --color always", dir.path(), &[], ""));
    assert!(usage.contains('\x1b') && usage.contains("<PATH>"), "{usage:?}");
}

#[test]
fn a_bad_file_among_many_stops_no_listing() {
    let dir = folder();
    run(&format!("{SMALL} -o a.st"), dir.path(), 0);
    fs::write(dir.path().join("bad.st"), "no checkpoint").unwrap();
    run("extract a.st --tensors img_in.* -o b.st", dir.path(), 0);
    let (text, errors) = run("inspect a.st bad.st b.st nowhere.st", dir.path(), 1);
    assert!(
        text.contains("a.st\n") && text.contains("b.st\n") && text.contains("22 tensors in all"),
        "{text}"
    );
    assert!(errors.contains("error: bad.st: ") && errors.contains("error: nowhere.st: "), "{errors}");
    assert_eq!(errors.lines().count(), 2, "{errors}");
    let (text, _) = run("inspect a.st bad.st --summary --json", dir.path(), 1);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&found["count"], &found["failed"][0]["path"]), (&json!(20), &json!("bad.st")));
    let (text, errors) = run("inspect bad.st nowhere.st", dir.path(), 1);
    assert!(text.is_empty() && errors.contains("none of the 2 checkpoints can be read"), "{errors}");
}

#[test]
fn patterns_are_many_and_one_that_matches_nothing_gets_a_hint() {
    let dir = folder();
    run(&format!("{SMALL} -o m.st"), dir.path(), 0);
    let found = json("inspect m.st --tensors img_in.* --tensors *.1.input_proj.bias", dir.path());
    assert_eq!(found["count"], 3);
    for (line, code) in [
        ("inspect m.st --tensors img_im.*", 1),
        ("inspect m.st m.st --tensors img_im.* --summary", 1),
        ("diff m.st m.st --tensors img_im.*", 2),
        ("extract m.st --tensors img_im.* -o x", 1),
    ] {
        let (text, errors) = run(line, dir.path(), code);
        assert!(text.is_empty(), "{line}: {text}");
        let hint = "no tensor matches img_im.*; similar names are \"img_in.";
        assert!(errors.contains(hint) && errors.lines().count() == 1, "{line}: {errors}");
    }
}

#[test]
fn listings_count_sort_and_group() {
    let dir = folder();
    run("synth --arch qwen-image-controlnet --blocks 11 --width 8 --in-dim 4 -o m.st", dir.path(), 0);
    let all = json("inspect m.st", dir.path());
    assert_eq!(all["parameters"].as_u64().unwrap() * 2, all["bytes"].as_u64().unwrap(), "all are bf16");
    let (text, _) = run("inspect m.st --summary", dir.path(), 0);
    assert!(
        !text.contains("img_in") && text.contains("68 tensors of BF16, 1.") && text.contains(" K parameters"),
        "{text}"
    );

    let (text, _) = run("inspect m.st --group", dir.path(), 0);
    let row = text.lines().find(|line| line.starts_with("controlnet_blocks.*.input_proj.weight")).unwrap();
    assert!(row.contains(" 11 ") && row.contains("[8, 8]") && row.contains("704"), "{text}");
    let groups = json("inspect m.st --group --sort size", dir.path());
    let groups = groups["groups"].as_array().unwrap();
    assert_eq!(groups.iter().map(|g| g["tensors"].as_u64().unwrap()).sum::<u64>(), 68);
    assert!(groups.is_sorted_by_key(|g| std::cmp::Reverse(g["bytes"].as_u64().unwrap())));

    let names = |flags: &str| -> Vec<String> {
        let found = json(&format!("inspect m.st --tensors *.x_rms.weight {flags}"), dir.path());
        let rows = found["tensors"].as_array().unwrap().iter();
        rows.map(|t| t["name"].as_str().unwrap().to_owned()).collect()
    };
    let by_name = names("--sort name");
    assert_eq!(by_name[10], "controlnet_blocks.10.x_rms.weight", "10 comes after 9: {by_name:?}");
    assert!(run("inspect m.st --summary --group", dir.path(), 2).1.contains("cannot be used with"));
}

/// A listing had the parts of a concatenation in alphabetical order, the data in that of the rule.
#[test]
fn parts_are_listed_in_the_order_of_their_data() {
    let dir = folder();
    run(&format!("{SMALL} -o m.st"), dir.path(), 0);
    let rule = "[[rule]]\nconcat = { tensors = { regex = '[.]input_proj[.]' }, \
                parts = ['.output_proj.', '.input_proj.'], into = '.proj.' }\n";
    fs::write(dir.path().join("r.toml"), rule).unwrap();
    let found = json("inspect m.st --convert r.toml --tensors *.0.proj.bias", dir.path());
    let parts = ["output", "input"].map(|part| format!("controlnet_blocks.0.{part}_proj.bias"));
    assert_eq!(found["tensors"][0]["made_of"], json!(parts));
}

#[test]
fn diff_has_the_exit_codes_of_diff() {
    let dir = folder();
    run(&format!("{SMALL} -o a.st"), dir.path(), 0);
    run(&format!("{SMALL} --seed 1 -o b.st"), dir.path(), 0);
    run("diff a.st a.st", dir.path(), 0);
    run("diff a.st b.st", dir.path(), 1);
    for line in ["diff a.st nowhere.st", "diff nowhere.st a.st", "diff a.st a.st --tolerance nan"] {
        run(line, dir.path(), 2);
    }
    for wrong in ["nan", "inf", "-1", "x"] {
        let (_, errors) = run(&format!("diff a.st a.st --tolerance={wrong}"), dir.path(), 2);
        assert!(errors.contains("--tolerance"), "{errors}");
    }
    // A tensor that cannot be read was trouble; it is not equal.
    let odd = crate::fixture("torch/unreadable.pt");
    let (text, _) = run(&format!("diff {odd} {odd}"), dir.path(), 1);
    assert!(text.contains("not compared, because it cannot be read: complex128"), "{text}");
}

#[test]
fn a_read_mode_of_the_environment_is_blamed_by_its_own_name() {
    let dir = with_golden();
    for line in ["inspect controlnet_small.safetensors", FORWARD, "devices", "diff a b"] {
        let out = with(line, dir.path(), &[("VRAM_READ", "bogus")], "");
        let expected = "error: the environment variable VRAM_READ is \"bogus\", but must be auto, pread, direct, uring or mmap";
        assert!(out.status.code() == Some(2) && stderr(&out).starts_with(expected), "{}", stderr(&out));
    }
    let out = with("--help", dir.path(), &[("VRAM_READ", "bogus")], "");
    assert!(out.status.success());
    let out = with(&format!("{FORWARD} --json"), dir.path(), &[("VRAM_READ", "pread")], "");
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(report["read"], "pread");
}

#[test]
fn costs_are_not_shown_before_they_were_measured() {
    let dir = with_golden();
    let (text, _) = run(&format!("{FORWARD} --budget 300KiB --passes 2"), dir.path(), 0);
    let row = |number: &str| -> Vec<&str> {
        let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{number} ")));
        line.unwrap().split_whitespace().collect()
    };
    assert_eq!(row("1")[2..4], ["-", "-"], "{text}");
    assert!(row("2")[2..4].iter().all(|cell| cell.parse::<f64>().is_ok()), "{text}");
}

#[test]
fn sizes_and_shares_are_taken_in_the_ways_people_write_them() {
    let dir = with_golden();
    let budget = |flag: &str| {
        json(&format!("{FORWARD} --budget {flag}"), dir.path())["budget_bytes"].as_u64().unwrap()
    };
    for (flag, bytes) in [("1Mi", 1 << 20), ("1M", 1 << 20), ("1MiB", 1 << 20), ("1MB", 1_000_000)] {
        assert_eq!(budget(flag), bytes, "{flag}");
    }
    let total = json("devices", dir.path())["devices"][0]["memory_total_bytes"].as_u64().unwrap();
    assert!((1..total / 10 + 1).contains(&budget("10%")));
    let plan = "plan controlnet_small.safetensors --arch qwen-image-controlnet --profile h100-pcie5";
    let all = json(plan, dir.path())["budget_bytes"].as_u64().unwrap();
    assert_eq!(json(&format!("{plan} --budget 25%"), dir.path())["budget_bytes"], all / 4);
    for wrong in ["0%", "101%", "half%"] {
        let (_, errors) = run(&format!("{FORWARD} --budget {wrong}"), dir.path(), 2);
        assert!(errors.contains("write 1% to 100%"), "{errors}");
    }
    let (text, _) = run(&format!("{plan} --budget 900KiB"), dir.path(), 0);
    assert!(text.contains(" bytes (") && text.contains("KiB)"), "{text}");
}

#[test]
fn a_plan_has_one_name_for_the_smallest_budget_and_shares_of_at_most_all() {
    let dir = with_golden();
    let plan = "plan controlnet_small.safetensors --arch qwen-image-controlnet --profile h100-pcie5";
    let document = json(&format!("{plan} --save p.json"), dir.path());
    let saved: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("p.json")).unwrap()).unwrap();
    assert!(document["smallest_budget_bytes"].is_u64());
    assert_eq!(document["smallest_budget_bytes"], saved["smallest_budget_bytes"]);
    let report = json(&format!("{FORWARD} --budget 1MiB"), dir.path());
    assert!(report["smallest_budget_bytes"].is_u64() && report["minimum_budget_bytes"].is_null());
    assert_eq!(
        json("plan --check p.json", dir.path())["smallest_budget_bytes"],
        saved["smallest_budget_bytes"]
    );
    fs::write(dir.path().join("d.json"), document.to_string()).unwrap();
    let (_, errors) = run("plan --check d.json", dir.path(), 1);
    assert!(errors.contains("d.json is what plan --json prints") && errors.contains("--save"), "{errors}");
    // Everything is resident: all of the weights, and no more than that. The budget is far beyond.
    let (text, _) = run(plan, dir.path(), 0);
    assert!(text.contains("100 % of the weights") && text.contains('▶') && !text.contains('▲'), "{text}");
    assert!(text.starts_with("controlnet_small.safetensors on h100-pcie5"), "{text}");
}

#[test]
fn a_drawing_names_the_model_and_falls_back_to_a_generic_font() {
    let dir = with_golden();
    let plan = "plan controlnet_small.safetensors --arch qwen-image-controlnet --profile rtx3060-pcie3";
    run(&format!("{plan} --svg c.svg"), dir.path(), 0);
    let svg = fs::read_to_string(dir.path().join("c.svg")).unwrap();
    assert!(svg.contains(", sans-serif\"") && svg.contains(">controlnet_small.safetensors, "), "{svg}");
    let (pass, bound) = (svg.find("class=\"pass\"").unwrap(), svg.find("class=\"bound\"").unwrap());
    assert!(bound > pass, "the bound is drawn above the line");
    assert!(svg.contains(">rtx3060-pcie3: GeForce RTX 3060, 12 GB"), "{svg}");
}

#[test]
fn sequences_of_a_plan_are_within_the_positions() {
    let dir = with_bert();
    let plan = |flags: &str| json(&format!("plan bert --arch bert --profile h100-pcie5 {flags}"), dir.path());
    assert_eq!((plan("--tokens 6"), &plan("")["tokens"]), (plan(""), &json!(6)), "256 are too many");
    let (_, errors) = run("plan bert --arch bert --profile h100-pcie5 --tokens 7", dir.path(), 1);
    assert!(errors.contains("--tokens 7: a sequence of bert has 6 tokens at most"), "{errors}");
}

#[test]
fn paths_that_are_not_models_get_a_hint() {
    let dir = with_bert();
    let at = |name: &str| dir.path().join(name);
    let snapshot = "hub/models--org--repo/snapshots/abc";
    fs::create_dir_all(at(snapshot)).unwrap();
    for (line, expected) in [
        ("embed --model nowhere x", "nowhere: there is no such folder"),
        ("embed --model org/repo x", "if org/repo is a model of a hub, download it and name its folder"),
        ("embed --model bert/model.safetensors x", "this is a file; --model takes the folder"),
        ("embed --model hub/models--org--repo x", snapshot),
        ("embed --model hub x", snapshot),
        ("embed --model . x", "there is no config.json in this folder"),
        ("embed --model bert x", "tokenizer.json"),
        ("inspect org/repo", "org/repo: No such file or directory; nothing is downloaded here"),
        ("inspect hub/models--org--repo", snapshot),
        ("tokenize --model org/repo -o x y", "is a model of a hub"),
    ] {
        let (text, errors) = run(line, dir.path(), 1);
        assert!(text.is_empty() && errors.contains(expected), "{line}: {errors}");
        assert!(errors.lines().count() == 1 && !errors.contains("os error"), "{line}: {errors}");
    }
}

#[cfg(unix)]
#[test]
fn texts_become_tokens_that_forward_takes() {
    let Some(model) = minilm() else {
        println!("skipped: MiniLM is not here; `cargo xtask models` fetches it");
        return;
    };
    let dir = folder();
    std::os::unix::fs::symlink(&model, dir.path().join("m")).unwrap();
    let done = json("tokenize --model m -o ids.st cat dog", dir.path());
    assert_eq!(done, json!({"output": "ids.st", "texts": 2, "tokens": 3}));
    let found = json("inspect ids.st", dir.path());
    assert_eq!(
        (&found["tensors"][0]["name"], &found["tensors"][0]["shape"]),
        (&json!("input_ids"), &json!([2, 3]))
    );
    let forward = "forward --arch bert --weights m --input ids.st -o out.st --budget 50%";
    run(forward, dir.path(), 0);
    let (_, errors) = run("tokenize --model m -o x.st cat supercalifragilistic", dir.path(), 1);
    assert!(errors.contains("a file holds texts of one length"), "{errors}");
    assert!(
        run("tokenize --model m -o m/tokenizer.json --force x", dir.path(), 1)
            .1
            .contains(".json is the ending")
    );
    for (flag, file) in [("--trace", "config.json"), ("--report", "model.safetensors")] {
        let (text, errors) = run(&format!("embed --model m {flag} m/{file} --force x"), dir.path(), 1);
        assert!(
            text.is_empty() && errors.contains("would replace a file that this command reads"),
            "{errors}"
        );
    }
    // The result comes before the files, and goes to stderr if one of them goes to stdout.
    let (text, errors) = run("embed --model m --trace - x", dir.path(), 0);
    assert!(text.starts_with('{') && errors.contains("cosine similarity"), "{errors}");

    // The lines of stdin are texts.
    let out = with("embed --model m --json - dog", dir.path(), &[], "a cat\ncat\n");
    let piped: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let args = ["embed", "--model", "m", "--json", "a cat", "cat", "dog"];
    let plain: serde_json::Value = serde_json::from_slice(&vram(&args, dir.path()).stdout).unwrap();
    assert_eq!(
        (&piped["embeddings"], piped["embeddings"].as_array().unwrap().len()),
        (&plain["embeddings"], 3)
    );
    let out = with("embed --model m -", dir.path(), &[], "");
    assert!(stderr(&out).contains("stdin is empty"), "{}", stderr(&out));
    let out = with("embed --model m - -", dir.path(), &[], "x");
    assert!(stderr(&out).contains("which can be read once"), "{}", stderr(&out));
}
