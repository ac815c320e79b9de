//! What a card does, checked in one run: the conformance suite, golden models under every kind of budget, what the driver says is
//! held, how far copies run beside kernels, and how near passes come to the bound of their schedule. Writes one JSON file; `cargo xtask gpu-check` builds it as one binary.

mod golden;
mod overlap;
mod schedule;
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use vram_device::{Kernels, conformance};

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Args {
    device: String,
    minilm: Option<PathBuf>,
    output: PathBuf,
    skip: Vec<String>,
}

const USAGE: &str = "gpu-check [--device cuda[:N|:NAME]] [--minilm FOLDER] [--skip PART]... [-o FILE.json]";

fn args() -> Result<Args, String> {
    let mut args =
        Args { device: "cuda".into(), minilm: None, output: "gpu-check.json".into(), skip: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\nusage: {USAGE}"));
        match word.as_str() {
            "--device" => args.device = value()?,
            "--minilm" => args.minilm = Some(value()?.into()),
            "--skip" => args.skip.push(value()?),
            "-o" => args.output = value()?.into(),
            _ => return Err(format!("{word} is unknown\nusage: {USAGE}")),
        }
    }
    Ok(args)
}

const PARTS: [&str; 5] = ["conformance", "controlnet", "minilm", "overlap", "schedule"];

/// A part of the check: what it found, and whether that is as it should be.
struct Part {
    name: &'static str,
    found: Value,
    passed: bool,
}

fn part(args: &Args, name: &'static str, run: impl FnOnce() -> Outcome<(Value, bool)>) -> Part {
    if args.skip.iter().any(|skipped| skipped == name) {
        return Part { name, found: json!({ "skipped": "by --skip" }), passed: true };
    }
    eprintln!("== {name}");
    let (found, passed) = run().unwrap_or_else(|error| (json!({ "error": error.to_string() }), false));
    eprintln!("== {name}: {}", if passed { "well" } else { "FAILED" });
    Part { name, found, passed }
}

fn suite(device: &dyn Kernels) -> (Value, bool) {
    let mut all = Vec::new();
    let mut passed = true;
    for case in conformance::cases() {
        let (failure, gap) = match case.run(device) {
            Ok(conformance::Outcome::Passed) => (None, None),
            Ok(conformance::Outcome::Gap(why)) => (None, Some(why)),
            Err(failure) => (Some(failure.message), None),
        };
        let gap_text = gap.as_ref().map_or("ok".to_owned(), |why| format!("not supported: {why}"));
        eprintln!("{}: {}", case.name(), failure.as_ref().unwrap_or(&gap_text));
        passed &= failure.is_none();
        all.push(json!({ "case": case.name(), "failure": failure, "gap": gap }));
    }
    (Value::Array(all), passed)
}

fn check(args: &Args) -> Outcome<bool> {
    if let Some(unknown) = args.skip.iter().find(|part| !PARTS.contains(&part.as_str())) {
        return Err(format!("there is no part {unknown}; there are {}", PARTS.join(", ")).into());
    }
    let device: Arc<dyn Kernels> = vram_device::open(&args.device)?;
    let info = device.info().clone();
    eprintln!("{}: {}", info.backend, info.name);
    let parts = [
        part(args, "conformance", || Ok(suite(&*device))),
        part(args, "controlnet", || golden::controlnet(&device)),
        part(args, "minilm", || golden::minilm(&device, args.minilm.as_deref())),
        part(args, "overlap", || overlap::measure(&*device)),
        part(args, "schedule", || schedule::measure(&device)),
    ];
    let passed = parts.iter().all(|part| part.passed);
    let mut document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "backend": info.backend,
        "device": info.name,
        "separate_copy_queue": info.topology.separate_copy_queue,
        "memory_total_bytes": device.memory().ok().map(|memory| memory.total),
        "passed": passed,
    });
    for Part { name, found, passed } in parts {
        document[name] = json!({ "passed": passed, "found": found });
    }
    std::fs::write(&args.output, serde_json::to_string_pretty(&document)? + "\n")?;
    eprintln!("{}: {}", args.output.display(), if passed { "all is well" } else { "something FAILED" });
    Ok(passed)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    match check(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
