//! Rust code in Markdown must be compiled somewhere: each block must stand, line for line, in an
//! example, a test or a doc test of a `lib.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Findings;
use super::sources::Source;

/// Fence attributes that keep a doc test from being compiled.
const NOT_COMPILED: [&str; 2] = ["ignore", "compile_fail"];

/// A block of code in a Markdown text.
#[derive(Debug, PartialEq)]
struct Block<'a> {
    /// The line of its opening fence, counted from 1.
    line: usize,
    /// The words after the opening fence, split at commas.
    attributes: Vec<&'a str>,
    /// The lines without indentation and without empty lines.
    code: Vec<&'a str>,
}

/// Checks the Markdown files of the root, of `docs/` and its folders, and the README of each crate.
pub(super) fn check(root: &Path, sources: &[Source]) -> Result<Findings> {
    let mut files = Vec::new();
    let docs = root.join("docs");
    for folder in [root.to_owned(), docs.clone()]
        .into_iter()
        .chain(folders(&docs)?)
        .chain(folders(&root.join("crates"))?)
    {
        files
            .extend(entries(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    let mut found = Findings::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        found.extend(check_text(&name, &text, sources));
    }
    found.sort();
    Ok(found)
}

fn check_text(name: &str, text: &str, sources: &[Source]) -> Findings {
    let compiled: Vec<Vec<&str>> = sources.iter().flat_map(compiled).collect();
    let stands =
        |block: &Block<'_>| compiled.iter().any(|c| c.windows(block.code.len()).any(|w| w == block.code));
    blocks(text.lines())
        .into_iter()
        .filter(|block| block.attributes.first() == Some(&"rust"))
        .filter(|block| !block.code.is_empty() && !stands(block))
        .map(|block| {
            format!("{name}:{}: this Rust code is in no example, test or doc test of a lib.rs", block.line)
        })
        .collect()
}

/// The compiled code in a file that Markdown may quote: all of an example or a test, and each doc
/// test of a `lib.rs`.
fn compiled(source: &Source) -> Vec<Vec<&str>> {
    if source.path.contains("/examples/") || source.path.contains("/tests/") {
        return vec![lines(source.text.lines())];
    }
    if !source.path.ends_with("/src/lib.rs") {
        return Vec::new();
    }
    let docs = source.text.lines().map_while(|line| line.strip_prefix("//!"));
    let mut tests = blocks(docs);
    tests.retain(|test| {
        let rust = ["", "rust", "no_run", "should_panic"].contains(test.attributes.first().unwrap_or(&""));
        rust && !test.attributes.iter().any(|a| NOT_COMPILED.contains(a))
    });
    // rustdoc compiles hidden lines but does not show them.
    let shown = |line: &&str| *line != "#" && !line.starts_with("# ");
    tests.into_iter().map(|test| test.code.into_iter().filter(shown).collect()).collect()
}

/// All fenced blocks, of any language.
fn blocks<'a>(text: impl Iterator<Item = &'a str>) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    let mut all = text.enumerate();
    while let Some((at, line)) = all.next() {
        let Some(attributes) = line.trim().strip_prefix("```") else { continue };
        let code = lines(all.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```"));
        blocks.push(Block { line: at + 1, attributes: attributes.split(',').map(str::trim).collect(), code });
    }
    blocks
}

/// The folders in a folder.
fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(dir)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    lines.map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# Title\n```sh\nfn not_rust()\n```\n\n```rust,ignore\nlet a = 1;\n\nif a > 0 {\n    b();\n}\n```\n";

    const MISSING: &str = "A.md:6: this Rust code is in no example, test or doc test of a lib.rs";

    fn check(path: &str, code: &str, expected: &[&str]) {
        let source = Source { path: path.to_owned(), text: code.to_owned() };
        assert_eq!(check_text("A.md", TEXT, &[source]), expected, "{path}: {code}");
    }

    #[test]
    fn finds_blocks_and_their_lines() {
        let found = blocks(TEXT.lines());
        let code = vec!["let a = 1;", "if a > 0 {", "b();", "}"];
        assert_eq!(found[1], Block { line: 6, attributes: vec!["rust", "ignore"], code });
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn a_block_stands_line_for_line_in_an_example() {
        let code = "fn main() {\n    let a = 1;\n    if a > 0 {\n        b();\n    }\n}\n";
        check("crates/a/examples/b.rs", code, &[]);
        check("crates/a/src/b.rs", code, &[MISSING]);
        check("crates/a/examples/b.rs", &code.replace("b()", "c()"), &[MISSING]);
    }

    #[test]
    fn a_block_stands_in_a_doc_test_of_a_crate_s_root() {
        let code = "//! # Title\n//!\n//! ```\n//! # hidden();\n//! let a = 1;\n//! # hidden();\n//! if a > 0 {\n//!     b();\n//! }\n//! ```\n";
        check("crates/a/src/lib.rs", code, &[]);
        check("crates/a/src/lib.rs", &code.replacen("```", "```no_run", 1), &[]);
        check("crates/a/src/lib.rs", &code.replacen("```", "```ignore", 1), &[MISSING]);
        check("crates/a/src/lib.rs", &code.replacen("```", "```rust,ignore", 1), &[MISSING]);
        check("crates/a/src/lib.rs", &code.replacen("```", "```toml", 1), &[MISSING]);
        check("crates/a/src/b.rs", code, &[MISSING]);
        // The same lines, with another one hidden.
        check("crates/a/src/lib.rs", &code.replace("//! let", "//! # let"), &[MISSING]);
    }
}
