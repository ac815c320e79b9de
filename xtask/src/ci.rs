//! `cargo xtask test` and `cargo xtask ci`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{models, nvrtc, shell, standin, tidy};

/// Runs `cargo test --workspace`, after downloading the real models if possible.
pub(crate) fn test(args: &[String]) -> Result<()> {
    if let Err(error) = models::run(&[]) {
        // Tests without their model say so. CI also runs `cargo xtask models`, which fails.
        eprintln!("skipped: the tests that need a real model, because {error:#}");
    }
    // A package or a manifest replaces the workspace.
    let narrowed = args.iter().any(|a| ["-p", "--package", "--manifest-path"].contains(&a.as_str()));
    let mut command = shell::cargo();
    command.arg("test");
    if !narrowed {
        command.arg("--workspace");
    }
    shell::run(command.args(args))?;
    // The arguments may be for the test harness, which not all of the following targets have.
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

/// Tests that need certain features: the package, the features, and the tests that these change.
const FEATURES: [(&str, &str, &[&str]); 9] = [
    // Leaves out the safeguards of the engine one by one and checks that the tests notice.
    ("vram-layers", "mutations", &["--test", "mutations"]),
    // The ring and the engine's queues under chosen schedules: intact, and with a safeguard left
    // out.
    ("vram-layers", "shuttle", &["--test", "shuttle"]),
    ("vram-layers", "shuttle,mutations", &["--test", "shuttle"]),
    // If the system refuses io_uring, these run with what replaces it.
    ("vram-diskmap", "toml,io-uring", &[]),
    // Both GPU backends at once: wgpu on whatever adapter is here, CUDA on the stand-in driver.
    // Without an adapter the wgpu tests say so.
    ("vram-device", "cuda,wgpu", &["--lib", "--test", "cuda", "--test", "wgpu"]),
    ("vram-models", "cuda,wgpu", &["--test", "it", "--", "cuda", "wgpu"]),
    ("vram-cli", "cuda,wgpu", &["--test", "it", "device"]),
    ("vram-benches", "wgpu,vram-device/cuda", &["upload"]),
    // Leaves out the waits of the CUDA backend one by one.
    ("vram-device", "cuda,mutations", &["--test", "cuda-mutations"]),
];

type Step = fn() -> Result<()>;

/// Runs every check other than the tests. Continues after a failure, so that one run reports all
/// of them.
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
            Ok(()) => eprintln!("== {name}: ok, {seconds:.1} s"),
            Err(error) => {
                eprintln!("== {name}: FAILED, {seconds:.1} s: {error:#}");
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Checks that the default build pulls in no GPU crate and the features do. Also compiles
/// combinations that no test uses: bindings of a given CUDA version, and both backends at once.
fn features() -> Result<()> {
    let has = |features: &[&str]| -> Result<bool> {
        let mut command = shell::cargo();
        let tree = shell::stdout(command.args(["tree", "-e", "features", "-p", "vram-cli"]).args(features))?;
        eprintln!("{tree}");
        Ok(["wgpu v", "cudarc v"].iter().any(|name| tree.contains(name)))
    };
    ensure!(!has(&[])?, "the default build pulls in a GPU crate");
    ensure!(has(&["--features", "wgpu"])?, "the feature wgpu does not pull in wgpu");
    ensure!(has(&["--features", "cuda"])?, "the feature cuda does not pull in cudarc");
    ["cuda-12080", "cuda-12000", "cuda,wgpu"].iter().try_for_each(|features| {
        let args = ["clippy", "--package", "vram-device", "--features", features, "--quiet"];
        shell::run(shell::cargo().args(args).args(["--", "-D", "warnings"]))
    })
}

/// Packages every public crate and builds it from its package, with its siblings' packages.
///
/// Uses a new folder each time: cargo assumes that a package with the same name and version is the
/// same, and would build today's crates with yesterday's siblings.
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

/// Where cargo unpacks packages from folder registries, whose names have no host.
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

/// Builds and tests the crates that use ours from outside the workspace, and limits how many
/// packages they pull in.
fn outside() -> Result<()> {
    let folder = shell::root().join("examples-outside");
    if !folder.is_dir() {
        eprintln!("skipped: {} does not exist", folder.display());
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
    let metadata = shell::metadata(manifest, false)?;
    let nvcc = metadata.workspace_packages().into_iter().find_map(|package| {
        let name = package.metadata.pointer("/xtask/nvcc").and_then(serde_json::Value::as_str)?;
        Some(manifest.with_file_name(name))
    });
    let mut command = shell::cargo();
    if let Some(nvcc) = nvcc {
        // Only checked, not run: a dependency's build script calls NVIDIA's compiler, which this
        // script replaces.
        let folder = nvcc.parent().unwrap_or(Path::new("."));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(folder.to_path_buf()).chain(std::env::split_paths(&path));
        command.args(["check", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(&target);
        command.env("NVCC", &nvcc).env("CUDA_COMPUTE_CAP", "80").env("PATH", std::env::join_paths(paths)?);
        return shell::run(&mut command);
    }
    command.args(["test", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(&target);
    shell::run(&mut command)?;

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
