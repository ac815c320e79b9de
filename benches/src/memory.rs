//! The memory use of the whole command: the peak of the ledger, and the largest resident set of
//! the process.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vram_diskmap::SafetensorsWriter;
use vram_types::{DType, TensorMeta};

use crate::Options;
use crate::model::{Args, checkpoint};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 128 * MIB;
const LIMIT: u64 = 256 * MIB;

/// Runs `vram forward` with a budget of 128 MiB in separate processes, with reads and through the
/// map.
pub(crate) fn run(options: &Options, args: &Args) -> Result<()> {
    let path = checkpoint(options, args.given())?;
    let vram = std::env::current_exe().context("own path")?.with_file_name("vram");
    ensure!(vram.exists(), "{} is not built: cargo build --release -p vram-cli", vram.display());
    let config = vram_models::controlnet::Config::read(&vram_diskmap::DiskMap::open(&path)?)?;
    println!("vram forward, {}, --budget 128MiB --host-budget 64MiB, two passes", path.display());
    for tokens in args.tokens() {
        let input = options.out.join("memory-input.safetensors");
        write_input(&input, tokens, config.width, config.inputs)?;
        for mode in ["pread", "auto", "mmap"] {
            let report = options.out.join("memory-report.json");
            let output = options.out.join("memory-output.safetensors");
            // GNU time measures only the child; getrusage would return the largest of all children
            // so far.
            let run = Command::new("/usr/bin/time")
                .args(["-f", "%M"])
                .arg(&vram)
                .args(["forward", "--arch", "qwen-image-controlnet", "--dtype", "bf16", "--passes", "2"])
                .args(["--budget", "128MiB", "--host-budget", "64MiB", "--read", mode, "--force"])
                .arg("--weights")
                .arg(&path)
                .arg("--input")
                .arg(&input)
                .arg("-o")
                .arg(&output)
                .arg("--report")
                .arg(&report)
                .output()
                .context("/usr/bin/time (install the package `time`)")?;
            let text = String::from_utf8_lossy(&run.stderr);
            ensure!(run.status.success(), "vram forward failed: {text}");
            let kib: u64 = text.lines().last().context("no output of time")?.trim().parse()?;
            let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report)?)?;
            let peak = report["peak_bytes"].as_u64().context("no peak_bytes")?;
            println!(
                "{tokens:>4} tokens, --read {mode:<5}: ledger peak {:.1} MiB, largest resident set {:.1} MiB",
                peak as f64 / MIB as f64,
                kib as f64 / 1024.0
            );
            ensure!(peak <= BUDGET, "the peak of the ledger is over the budget");
            ensure!(kib * 1024 <= LIMIT, "the resident set is over 256 MiB");
        }
    }
    Ok(())
}

fn write_input(path: &Path, tokens: usize, width: usize, inputs: usize) -> Result<()> {
    let tensors = [
        ("img", TensorMeta::new(DType::F32, [1, tokens, width])?),
        ("conditioning", TensorMeta::new(DType::F32, [1, tokens, inputs])?),
    ];
    let bytes: Vec<u64> = tensors.iter().map(|(_, meta)| meta.bytes()).collect();
    let mut writer = SafetensorsWriter::create(path, tensors, &[])?;
    for bytes in bytes {
        let values: Vec<u8> =
            (0..bytes / 4).flat_map(|i| ((i % 97) as f32 / 48.5 - 1.0).to_le_bytes()).collect();
        writer.write(&values)?;
    }
    Ok(writer.finish()?)
}
