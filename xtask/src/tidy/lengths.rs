//! Limits the length of files.

use super::Findings;
use super::allow::Exception;
use super::sources::Source;

const MOST_LINES: usize = 600;

pub(super) fn check(sources: &[Source], exceptions: &[Exception]) -> Findings {
    let mut found = Findings::new();
    let long = |s: &&Source| s.text.lines().count() > MOST_LINES;
    for source in sources.iter().filter(long) {
        if !exceptions.iter().any(|(path, _)| *path == source.path) {
            let lines = source.text.lines().count();
            found.push(format!("{} has {lines} lines, over {MOST_LINES}; split it by purpose", source.path));
        }
    }
    for (path, _) in exceptions {
        if !sources.iter().filter(long).any(|s| s.path == *path) {
            found.push(format!("{path} no longer needs its exception"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_need_a_reason() {
        let source = |lines: usize| Source { path: "a.rs".to_owned(), text: "\n".repeat(lines) };
        let reason: &[Exception] = &[("a.rs", "a table")];
        assert!(check(&[source(600)], &[]).is_empty());
        assert_eq!(check(&[source(601)], &[]).len(), 1);
        assert!(check(&[source(601)], reason).is_empty());
        assert_eq!(check(&[source(600)], reason), ["a.rs no longer needs its exception"]);
    }
}
