//! `cargo xtask bench`: runs the criterion suites crate by crate, then the measured rows of
//! `benches/`.

use anyhow::{Result, ensure};
use cargo_metadata::TargetKind;

use crate::shell;

const ROWS: &str = "vram-benches";
/// Features for comparisons that other builds do not need: another library, a read path and a
/// backend.
const ROWS_FEATURES: &str = "candle,io-uring,wgpu";

/// Runs the suites of one package, or all of them.
pub(crate) fn run(quick: bool, only: Option<&str>) -> Result<()> {
    let metadata = shell::metadata(&shell::root().join("Cargo.toml"), false)?;
    let packages = metadata.workspace_packages();
    if let Some(name) = only {
        ensure!(packages.iter().any(|p| p.name == name), "the workspace has no package {name:?}");
    }
    let wanted = |name: &str| only.is_none_or(|o| o == name);
    for package in packages.iter().filter(|p| wanted(&p.name)) {
        for target in package.targets.iter().filter(|t| t.kind.contains(&TargetKind::Bench)) {
            let mut command = shell::cargo();
            command.args(["bench", "--package", &package.name, "--bench", &target.name, "--"]);
            if quick {
                command.arg("--quick");
            }
            shell::run(&mut command)?;
        }
    }
    if wanted(ROWS) {
        // The rows run the command: to generate their checkpoint, and to measure its memory.
        shell::run(shell::cargo().args(["build", "--quiet", "--release", "--package", "vram-cli"]))?;
        let mut command = shell::cargo();
        command.args(["run", "--quiet", "--release", "--package", ROWS]);
        command.args(["--features", ROWS_FEATURES, "--"]);
        if quick {
            command.arg("--quick");
        }
        shell::run(command.arg("all"))?;
    }
    Ok(())
}
