//! Tells the command its version: with the commit if this is a checkout, and with the features.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let mut facts = Vec::new();
    // Not the commit of some other repository that the sources happen to lie in.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_some()
        && let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"])
    {
        facts.push(format!("commit {commit}"));
    }
    // The log of HEAD grows with every commit and checkout. A file that is not there would have this
    // run every time.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let is_on = |name: &&str| {
        let variable = name.to_uppercase().replace('-', "_");
        env::var_os(format!("CARGO_FEATURE_{variable}")).is_some()
    };
    let features: Vec<&str> = ["cuda", "io-uring", "wgpu"].into_iter().filter(is_on).collect();
    facts.push(match features.as_slice() {
        [] => "no optional features".to_owned(),
        some => format!("features {}", some.join(", ")),
    });
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo::rustc-env=VRAM_VERSION={version} ({})", facts.join("; "));
}

/// The one line that git answers; `None` without git or outside a repository.
fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok().filter(|out| out.status.success())?;
    let text = String::from_utf8(out.stdout).ok()?;
    Some(text.trim().to_owned())
}
