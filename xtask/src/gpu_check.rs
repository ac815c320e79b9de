//! `cargo xtask gpu-check`: builds one binary for people who have a card.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// Size limit of the binary, which people send around.
const MOST_BYTES: u64 = 50 << 20;

/// Builds `target/gpu-check`, and runs it with `--run`.
pub(crate) fn run(run: bool, args: &[String]) -> Result<()> {
    let mut command = shell::cargo();
    command.args(["build", "--release", "--package", "vram-models", "--features", "cuda,wgpu"]);
    // Without symbols, which are of no use there.
    command.args(["--example", "gpu-check", "--config", "profile.release.strip=true"]);
    shell::run(&mut command)?;
    let metadata = shell::metadata(&shell::root().join("Cargo.toml"), false)?;
    let target = metadata.target_directory.as_std_path();
    let binary = target.join("gpu-check");
    fs::copy(target.join("release/examples/gpu-check"), &binary).context("cannot copy the binary")?;
    let bytes = fs::metadata(&binary)?.len();
    ensure!(bytes <= MOST_BYTES, "{} has {bytes} bytes; at most {MOST_BYTES} are allowed", binary.display());
    eprintln!("{}: {bytes} bytes. On a machine with a card, run", binary.display());
    eprintln!("  ./gpu-check --device cuda -o gpu-check.json");
    if run { shell::run(Command::new(&binary).args(args)) } else { Ok(()) }
}
