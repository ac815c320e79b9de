//! `cargo xtask gpu-check`: one binary for whoever has a card.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::shell;

/// What may be handed to somebody.
const MOST_BYTES: u64 = 50 << 20;

/// Builds `target/gpu-check`, and runs it if asked to.
pub(crate) fn run(run: bool, args: &[String]) -> Result<()> {
    let mut command = shell::cargo();
    command.args(["build", "--release", "--package", "vram-models", "--features", "cuda,wgpu"]);
    // Without symbols, which nobody there needs.
    command.args(["--example", "gpu-check", "--config", "profile.release.strip=true"]);
    shell::run(&mut command)?;
    let metadata = shell::metadata(&shell::root().join("Cargo.toml"), false)?;
    let target = metadata.target_directory.as_std_path();
    let binary = target.join("gpu-check");
    fs::copy(target.join("release/examples/gpu-check"), &binary).context("the binary that was built")?;
    let bytes = fs::metadata(&binary)?.len();
    ensure!(bytes <= MOST_BYTES, "{} has {bytes} bytes, where {MOST_BYTES} are allowed", binary.display());
    eprintln!("{}: {bytes} bytes; on a machine with a card, run", binary.display());
    eprintln!("  ./gpu-check --device cuda -o gpu-check.json");
    if run { shell::run(Command::new(&binary).args(args)) } else { Ok(()) }
}
