//! The crate alone is a light dependency: no device, no runtime, no JSON tree.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Packages that a crate outside the workspace gets with this one, itself excluded.
const MOST: usize = 16;

#[test]
fn a_crate_outside_the_workspace_gets_few_packages() {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples-outside/diskmap-only/Cargo.toml");
    if !manifest.exists() {
        eprintln!("skipped: {} is not here (a packaged crate)", manifest.display());
        return;
    }
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--manifest-path",
        ])
        .arg(&manifest)
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let packages: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(packages.contains("vram-diskmap"));
    for other in ["vram-device", "vram-layers", "vram-alloc", "serde", "tokio", "wgpu"] {
        assert!(!packages.contains(other), "{other} is among {packages:?}");
    }
    assert!(packages.len() - 2 <= MOST, "{} packages: {packages:?}", packages.len() - 2);
}
