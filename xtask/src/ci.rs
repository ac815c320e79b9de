//! `cargo xtask test` and `cargo xtask ci`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{models, nvrtc, shell, standin, tidy};

/// `cargo test --workspace`, with the real models there if they can be had.
pub(crate) fn test(args: &[String]) -> Result<()> {
    if let Err(error) = models::run(&[]) {
        // Such tests say so themselves; CI runs `cargo xtask models` on its own, where this is a failure.
        eprintln!("skipped: the tests that need a real model, because {error:#}");
    }
    // A package or a path of one's own is instead of the workspace.
    let narrowed = args.iter().any(|a| ["-p", "--package", "--manifest-path"].contains(&a.as_str()));
    let mut command = shell::cargo();
    command.arg("test");
    if !narrowed {
        command.arg("--workspace");
    }
    shell::run(command.args(args))?;
    // Arguments may be for the harness of the tests above, which not all of these have.
    if !args.is_empty() {
        return Ok(());
    }
    FEATURES.iter().try_for_each(|(package, features, tests)| {
        let mut command = shell::cargo();
        command.args(["test", "--package", package, "--features", features]).args(*tests);
        if features.split(',').any(|f| f == "cuda") {
            standin::with(&mut command)?;
            command.env("VRAM_CUDA_REQUIRED", "1");
        }
        shell::run(&mut command)
    })
}

/// What only builds with certain features have: the package, the features, and which of its tests they change.
const FEATURES: [(&str, &str, &[&str]); 9] = [
    // Leaves out, one after the other, what keeps the engine safe, and sees that it is missed.
    ("vram-layers", "mutations", &["--test", "mutations"]),
    // The ring and the engine's queues under schedules that a test chooses: as they are, and with something left out.
    ("vram-layers", "shuttle", &["--test", "shuttle"]),
    ("vram-layers", "shuttle,mutations", &["--test", "shuttle"]),
    // Where the system refuses io_uring, these run by what replaces it.
    ("vram-diskmap", "toml,io-uring", &[]),
    // Both backends for cards at once: wgpu on whatever adapter is here, CUDA on the stand-in for its driver. Without an adapter
    // the tests of wgpu say so.
    ("vram-device", "cuda,wgpu", &["--lib", "--test", "cuda", "--test", "wgpu"]),
    ("vram-models", "cuda,wgpu", &["--test", "it", "--", "cuda", "wgpu"]),
    ("vram-cli", "cuda,wgpu", &["--test", "it", "device"]),
    ("vram-benches", "wgpu,vram-device/cuda", &["upload"]),
    // Leaves out each wait of the CUDA backend.
    ("vram-device", "cuda,mutations", &["--test", "cuda-mutations"]),
];

type Step = fn() -> Result<()>;

/// Everything a change must pass besides the tests; goes on after a failure, so that one run tells all.
pub(crate) fn run() -> Result<()> {
    let steps: [(&str, Step); 8] = [
        ("format", || shell::run(shell::cargo().args(["fmt", "--all", "--check"]))),
        ("lints", || {
            let clippy = |args: &[&str]| {
                let mut command = shell::cargo();
                command.arg("clippy").args(args).args(["--all-targets", "--quiet", "--", "-D", "warnings"]);
                shell::run(&mut command)
            };
            clippy(&["--workspace"])?;
            FEATURES.iter().try_for_each(|(package, features, _)| {
                clippy(&["--package", package, "--features", features])
            })
        }),
        ("tidy", tidy::run),
        ("docs", || {
            let args = ["doc", "--workspace", "--no-deps", "--quiet"];
            shell::run(shell::cargo().args(args).env("RUSTDOCFLAGS", "-D warnings"))
        }),
        ("features", features),
        ("nvrtc", || nvrtc::run(false)),
        ("package", package),
        ("outside", outside),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        let start = Instant::now();
        eprintln!("== {name}");
        let result = step();
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => eprintln!("== {name}: well, {seconds:.1} s"),
            Err(error) => {
                eprintln!("== {name}: FAILED, {seconds:.1} s: {error:#}");
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// The default build pulls in no crate of a GPU, and the features do. What is without a test of its own compiles: bindings of a
/// version of CUDA that is named, instead of the newest, and both backends at once.
fn features() -> Result<()> {
    let has = |features: &[&str]| -> Result<bool> {
        let mut command = shell::cargo();
        let tree = shell::stdout(command.args(["tree", "-e", "features", "-p", "vram-cli"]).args(features))?;
        eprintln!("{tree}");
        Ok(["wgpu v", "cudarc v"].iter().any(|name| tree.contains(name)))
    };
    ensure!(!has(&[])?, "the default build pulls in a GPU crate");
    ensure!(has(&["--features", "wgpu"])?, "the feature wgpu pulls in no wgpu");
    ensure!(has(&["--features", "cuda"])?, "the feature cuda pulls in no cudarc");
    ["cuda-12080", "cuda-12000", "cuda,wgpu"].iter().try_for_each(|features| {
        let args = ["clippy", "--package", "vram-device", "--features", features, "--quiet"];
        shell::run(shell::cargo().args(args).args(["--", "-D", "warnings"]))
    })
}

/// Packs every public crate and builds it from what was packed; siblings come from the packages beside it.
///
/// In a folder that no run before has used: cargo takes a package of a name and version that it has unpacked or built
/// before for the same one, and would build today's crates with yesterday's siblings.
fn package() -> Result<()> {
    let metadata = shell::metadata(&shell::root().join("Cargo.toml"), false)?;
    let target =
        metadata.target_directory.join(format!("package-{}", std::process::id())).into_std_path_buf();
    let before = unpacked();
    let mut command = shell::cargo();
    command.args(["package", "--workspace", "--allow-dirty", "--quiet", "--target-dir"]).arg(&target);
    for package in metadata.workspace_packages().into_iter().filter(|p| !tidy::is_public(p)) {
        command.args(["--exclude", &package.name]);
    }
    let result = shell::run(&mut command);
    for folder in unpacked().difference(&before).chain([&target]) {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
    }
    result
}

/// Where cargo unpacks packages of registries that are folders: those have no host in their name.
fn unpacked() -> BTreeSet<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let Some(Ok(folders)) = home.map(|h| fs::read_dir(h.join("registry/src"))) else {
        return BTreeSet::new();
    };
    folders
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"-")))
        .collect()
}

/// Builds and tests the crates that use ours as strangers do, and holds the number of packages they pull in.
fn outside() -> Result<()> {
    let folder = shell::root().join("examples-outside");
    if !folder.is_dir() {
        eprintln!("skipped: there is no {}", folder.display());
        return Ok(());
    }
    let mut manifests: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path().join("Cargo.toml")))
        .filter(|manifest| manifest.is_file())
        .collect();
    manifests.sort();
    manifests.iter().try_for_each(|manifest| outside_one(manifest))
}

fn outside_one(manifest: &Path) -> Result<()> {
    let target = shell::root().join("target/examples-outside");
    let mut command = shell::cargo();
    command.args(["test", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(&target);
    shell::run(&mut command)?;

    let metadata = shell::metadata(manifest, false)?;
    for package in metadata.workspace_packages() {
        let most = package.metadata.pointer("/xtask/most-packages").and_then(serde_json::Value::as_u64);
        let Some(most) = most else {
            bail!("{} sets no [package.metadata.xtask] most-packages", manifest.display());
        };
        let mut tree = shell::cargo();
        tree.args(["tree", "--prefix", "none", "--edges", "normal", "--manifest-path"]).arg(manifest);
        let text = shell::stdout(&mut tree)?;
        let packages: BTreeSet<&str> =
            text.lines().map(|l| l.trim_end_matches(" (*)")).filter(|l| !l.is_empty()).collect();
        let count = packages.len() as u64;
        ensure!(
            count <= most,
            "{} pulls in {count} packages, itself included; {most} are allowed",
            package.name
        );
        eprintln!("{}: {count} packages, itself included, of {most} allowed", package.name);
    }
    Ok(())
}
