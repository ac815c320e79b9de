//! The code map must list exactly the members of the workspace, and each may use only what the map
//! allows.

use cargo_metadata::{DependencyKind, Metadata};

use super::Findings;
use super::architecture::{Allowed, Architecture};

/// A dependency of one member on another.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    in_tests: bool,
}

pub(super) fn check(architecture: &Architecture, metadata: &Metadata) -> Findings {
    let packages = metadata.workspace_packages();
    let members: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    let mut edges = Vec::new();
    for package in &packages {
        for dependency in package.dependencies.iter().filter(|d| members.contains(&d.name.as_str())) {
            let in_tests = dependency.kind == DependencyKind::Development;
            edges.push(Edge { from: &package.name, to: &dependency.name, in_tests });
        }
    }
    compare(architecture, &members, &edges)
}

fn compare(architecture: &Architecture, members: &[&str], edges: &[Edge<'_>]) -> Findings {
    let map = &architecture.code_map;
    let mut found = Findings::new();
    for member in members.iter().filter(|m| !map.contains_key(**m)) {
        found.push(format!("the code map has no entry for {member}"));
    }
    for (name, Allowed { uses, tests_use }) in map {
        for crate_name in std::iter::once(name).chain(uses).chain(tests_use) {
            if !members.contains(&crate_name.as_str()) {
                found.push(format!(
                    "the entry {name} names {crate_name}, which is not a member of the workspace"
                ));
            }
        }
    }
    for Edge { from, to, in_tests } in edges {
        let Some(allowed) = map.get(*from) else { continue };
        if !(allowed.uses.contains(*to) || *in_tests && allowed.tests_use.contains(*to)) {
            let whose = if *in_tests { "the tests of " } else { "" };
            found.push(format!("{whose}{from} must not use {to}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "## Code map\n### `a`\n### `b`\nUses: `a`\n### `c`\nUses: `a`\nTests also use: `b`\n## Unsafe inventory\n";

    fn check(text: &str, edges: &[(&str, &str, bool)], expected: &[&str]) {
        let architecture = Architecture::parse(text, "## Files\n").unwrap();
        let edges: Vec<_> = edges.iter().map(|&(from, to, in_tests)| Edge { from, to, in_tests }).collect();
        assert_eq!(compare(&architecture, &["a", "b", "c"], &edges), expected);
    }

    #[test]
    fn siblings_never_see_one_another() {
        check(TEXT, &[("b", "a", false), ("c", "a", true), ("c", "b", true)], &[]);
        check(TEXT, &[("c", "b", false)], &["c must not use b"]);
        check(TEXT, &[("a", "b", true)], &["the tests of a must not use b"]);
    }

    #[test]
    fn the_map_and_the_members_are_the_same() {
        check(
            &TEXT.replace("### `c`", "### `d`"),
            &[],
            &[
                "the code map has no entry for c",
                "the entry d names d, which is not a member of the workspace",
            ],
        );
    }
}
