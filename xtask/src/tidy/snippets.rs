//! Rust in prose is Rust that is compiled: each block stands, line for line, in an example or a test.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Findings;
use super::sources::Source;

/// A block of code in a Markdown file.
#[derive(Debug, PartialEq)]
struct Block<'a> {
    /// The line of its opening fence, counted from 1.
    line: usize,
    /// Its lines without indentation; empty ones left out.
    code: Vec<&'a str>,
}

/// Checks the Markdown files of the root and of `docs/`.
pub(super) fn check(root: &Path, sources: &[Source]) -> Result<Findings> {
    let mut found = Findings::new();
    for folder in ["", "docs"] {
        let path = root.join(folder);
        for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "md") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                found.extend(check_text(&name, &text, sources));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn check_text(name: &str, text: &str, sources: &[Source]) -> Findings {
    let compiled: Vec<Vec<&str>> = sources
        .iter()
        .filter(|s| s.path.contains("/examples/") || s.path.contains("/tests/"))
        .map(|s| lines(s.text.lines()))
        .collect();
    let stands =
        |block: &Block<'_>| compiled.iter().any(|c| c.windows(block.code.len()).any(|w| w == block.code));
    blocks(text)
        .into_iter()
        .filter(|block| !block.code.is_empty() && !stands(block))
        .map(|block| format!("{name}:{}: the Rust there stands in no example and no test", block.line))
        .collect()
}

/// The blocks whose fence says `rust`, whatever else it says.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut all = text.lines().enumerate();
    while let Some((at, line)) = all.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let body = lines(all.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```"));
        if language.split(',').next() == Some("rust") {
            blocks.push(Block { line: at + 1, code: body });
        }
    }
    blocks
}

fn lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    lines.map(str::trim).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# Title\n```sh\nfn not_rust()\n```\n\n```rust,ignore\nlet a = 1;\n\nif a > 0 {\n    b();\n}\n```\n";

    fn check(path: &str, code: &str, expected: &[&str]) {
        let source = Source { path: path.to_owned(), text: code.to_owned() };
        assert_eq!(check_text("A.md", TEXT, &[source]), expected);
    }

    #[test]
    fn finds_the_rust_and_its_line() {
        let code = vec!["let a = 1;", "if a > 0 {", "b();", "}"];
        assert_eq!(blocks(TEXT), [Block { line: 6, code }]);
    }

    #[test]
    fn a_block_stands_line_for_line_in_an_example() {
        let code = "fn main() {\n    let a = 1;\n    if a > 0 {\n        b();\n    }\n}\n";
        let missing = &["A.md:6: the Rust there stands in no example and no test"][..];
        check("crates/a/examples/b.rs", code, &[]);
        check("crates/a/src/b.rs", code, missing);
        check("crates/a/examples/b.rs", &code.replace("b()", "c()"), missing);
    }
}
