//! Parses the parts of ARCHITECTURE.md that are checked against the code.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

/// The workspace crates that a crate may use.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Allowed {
    /// In the crate itself and its build script.
    pub(super) uses: BTreeSet<String>,
    /// Additionally in its tests.
    pub(super) tests_use: BTreeSet<String>,
}

/// What ARCHITECTURE.md claims.
#[derive(Debug)]
pub(super) struct Architecture {
    /// The code map: for each `### name`, the crates named in its lines `Uses:` and `Tests also use:`.
    pub(super) code_map: BTreeMap<String, Allowed>,
    /// The files listed in the section "Unsafe inventory".
    pub(super) unsafe_files: BTreeSet<String>,
}

impl Architecture {
    /// From ARCHITECTURE.md and docs/unsafe.md.
    pub(super) fn parse(text: &str, inventory: &str) -> Result<Architecture> {
        let mut code_map = BTreeMap::new();
        let mut name = None;
        for line in section(text, "Code map")? {
            if let Some(heading) = line.strip_prefix("### ") {
                let crate_name =
                    quoted(heading).next().context("a heading of the code map names no `crate`")?;
                let twice = code_map.insert(crate_name.to_owned(), Allowed::default()).is_some();
                ensure!(!twice, "the code map has {crate_name} twice");
                name = Some(crate_name);
            }
            let Some(allowed) = name.and_then(|n| code_map.get_mut(n)) else {
                continue;
            };
            if let Some(list) = line.strip_prefix("Uses:") {
                allowed.uses = quoted(list).map(str::to_owned).collect();
            } else if let Some(list) = line.strip_prefix("Tests also use:") {
                allowed.tests_use = quoted(list).map(str::to_owned).collect();
            }
        }
        let unsafe_files = section(inventory, "Files")?
            .filter_map(|line| line.strip_prefix("- "))
            .filter_map(|item| quoted(item).next())
            .map(str::to_owned)
            .collect();
        Ok(Architecture { code_map, unsafe_files })
    }
}

/// The lines below `## title`, up to the next heading of the same level.
fn section<'a>(text: &'a str, title: &str) -> Result<impl Iterator<Item = &'a str>> {
    let mut lines = text.lines();
    lines
        .find(|line| line.strip_prefix("## ") == Some(title))
        .with_context(|| format!("there is no section \"## {title}\""))?;
    Ok(lines.take_while(|line| !line.starts_with("## ")))
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# Architecture
## Code map
### `a`
Does `nothing`.
Uses: nothing.
### `b`
Uses: `a`, `c`.
Tests also use: `d`.
## Decisions
- `other.rs`
";

    const INVENTORY: &str = "\
# Unsafe inventory
Words about `this`.
## Files
- `crates/a/src/io.rs`: system calls
";

    #[test]
    fn reads_the_code_map_and_the_inventory() {
        let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        let parsed = Architecture::parse(TEXT, INVENTORY).unwrap();
        assert_eq!(parsed.code_map["a"], Allowed::default());
        assert_eq!(parsed.code_map["b"], Allowed { uses: names(&["a", "c"]), tests_use: names(&["d"]) });
        assert_eq!(parsed.unsafe_files, names(&["crates/a/src/io.rs"]));
    }

    #[test]
    fn a_missing_section_is_an_error() {
        let error = Architecture::parse("# Architecture\n## Code map\n", "").unwrap_err().to_string();
        assert!(error.contains("Files"), "{error}");
    }
}
