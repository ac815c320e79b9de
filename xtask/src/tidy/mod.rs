//! Checks the code against ARCHITECTURE.md.

mod allow;
mod architecture;
mod cycles;
mod edges;
mod lengths;
mod manifests;
mod snippets;
mod sources;
mod traits;
mod unsafety;

use std::fs;

use anyhow::{Context, Result, bail};

use crate::shell;
use architecture::Architecture;
pub(crate) use manifests::is_public;

/// Violations, one line each.
type Findings = Vec<String>;

/// Runs every check, and fails if any finds a violation.
pub(crate) fn run() -> Result<()> {
    let root = shell::root();
    let path = root.join("ARCHITECTURE.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let path = root.join("docs/unsafe.md");
    let inventory = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let architecture = Architecture::parse(&text, &inventory)?;
    let metadata = shell::metadata(&root.join("Cargo.toml"), false)?;
    let sources = sources::all(&root)?;

    let checks: [(&str, Findings); 7] = [
        ("code map and dependency edges", edges::check(&architecture, &metadata)),
        ("unsafe inventory", unsafety::check(&architecture.unsafe_files, &sources)?),
        ("trait sizes", traits::check(&sources, allow::LARGE_TRAITS)?),
        ("circles", cycles::check(&sources, allow::CIRCLES)?),
        ("file lengths", lengths::check(&sources, allow::LONG_FILES)),
        ("manifests", manifests::check(&metadata)),
        ("code in prose", snippets::check(&root, &sources)?),
    ];
    let mut found = 0;
    for (name, findings) in &checks {
        for finding in findings {
            eprintln!("tidy: {name}: {finding}");
        }
        found += findings.len();
    }
    if found > 0 {
        bail!("tidy found {found} problems");
    }
    eprintln!("tidy: {} files of {} crates are tidy", sources.len(), metadata.workspace_members.len());
    Ok(())
}
