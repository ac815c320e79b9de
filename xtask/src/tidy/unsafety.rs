//! `unsafe` may be used only in the files of the inventory.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use proc_macro2::{TokenStream, TokenTree};

use super::Findings;
use super::sources::Source;

pub(super) fn check(inventory: &BTreeSet<String>, sources: &[Source]) -> Result<Findings> {
    let mut found = Findings::new();
    let mut used = BTreeSet::new();
    for source in sources {
        // Look at tokens, not at the syntax tree: macro bodies count, comments and strings do not.
        let tokens: TokenStream = source.text.parse().map_err(|e| anyhow!("{}: {e}", source.path))?;
        let Some(line) = first_unsafe(tokens) else {
            continue;
        };
        used.insert(source.path.as_str());
        if !inventory.contains(&source.path) {
            found.push(format!("{}:{line}: unsafe, but docs/unsafe.md does not list the file", source.path));
        }
    }
    for path in inventory.iter().filter(|p| !used.contains(p.as_str())) {
        found.push(format!("docs/unsafe.md lists {path}, which has no unsafe code"));
    }
    Ok(found)
}

/// The line of the first `unsafe` token.
fn first_unsafe(tokens: TokenStream) -> Option<usize> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(ident) if ident == "unsafe" => Some(ident.span().start().line),
        TokenTree::Group(group) => first_unsafe(group.stream()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(text: &str, listed: bool, expected: &[&str]) {
        let source = Source { path: "a.rs".to_owned(), text: text.to_owned() };
        let inventory = if listed { BTreeSet::from(["a.rs".to_owned()]) } else { BTreeSet::new() };
        assert_eq!(check(&inventory, &[source]).unwrap(), expected);
    }

    #[test]
    fn finds_unsafe_wherever_it_hides() {
        let unlisted = "a.rs:2: unsafe, but docs/unsafe.md does not list the file";
        let keyword = ["un", "safe"].concat();
        for text in [
            format!("fn f() {{\n {keyword} {{ g() }} }}"),
            format!("\n{keyword} impl Send for X {{}}"),
            format!("macro_rules! m {{ () => {{\n {keyword} {{ g() }} }} }}"),
        ] {
            check_one(&text, false, &[unlisted]);
            check_one(&text, true, &[]);
        }
    }

    #[test]
    fn words_are_not_code() {
        check_one("#![deny(unsafe_code)]\n/// unsafe\nconst A: &str = \"unsafe\"; // unsafe", false, &[]);
        check_one("fn f() {}", true, &["docs/unsafe.md lists a.rs, which has no unsafe code"]);
    }
}
