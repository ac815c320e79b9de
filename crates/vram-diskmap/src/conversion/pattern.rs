//! Patterns that names match, and templates that make names of what matched.

use std::ops::Range;

use super::error::{ConversionError, ConversionErrorKind};
use super::rule::Names;
use crate::fault::quoted;

/// A pattern, ready to be matched.
pub(super) enum Pattern<'r> {
    Exact(&'r str),
    List(&'r [String]),
    Prefix(&'r str),
    #[cfg(feature = "regex")]
    Regex(Box<regex_lite::Regex>),
}

/// Where a name matched: the part that is meant, then the groups; `None` for a group that took no
/// part.
pub(super) struct Match(Vec<Option<Range<usize>>>);

impl<'r> Pattern<'r> {
    pub(super) fn new(names: &'r Names) -> Result<Pattern<'r>, ConversionError> {
        Ok(match names {
            Names::Exact(name) => Pattern::Exact(name),
            Names::List(names) => Pattern::List(names),
            Names::Prefix(prefix) => Pattern::Prefix(prefix),
            #[cfg(feature = "regex")]
            Names::Regex(expression) => {
                Pattern::Regex(Box::new(regex_lite::Regex::new(expression).map_err(|e| {
                    invalid(format!("the regular expression {}: {e}", quoted(expression))).caused_by(e)
                })?))
            }
        })
    }

    /// The names that must be there, of a pattern that names its tensors.
    pub(super) fn named(&self) -> Vec<&'r str> {
        match self {
            Pattern::Exact(name) => vec![name],
            Pattern::List(names) => names.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether it names its tensors one by one.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Pattern::Exact(_) | Pattern::List(_))
    }

    pub(super) fn find(&self, name: &str) -> Option<Match> {
        let part = match self {
            Pattern::Exact(exact) => (name == *exact).then_some(0..name.len())?,
            Pattern::List(names) => names.iter().any(|n| n == name).then_some(0..name.len())?,
            Pattern::Prefix(prefix) => name.starts_with(prefix).then_some(0..prefix.len())?,
            #[cfg(feature = "regex")]
            Pattern::Regex(regex) => {
                let captures = regex.captures(name)?;
                return Some(Match(captures.iter().map(|group| group.map(|g| g.range())).collect()));
            }
        };
        Some(Match(vec![Some(part)]))
    }

    /// What it looks for, in an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Pattern::Exact(name) => format!("no tensor is called {}", quoted(name)),
            Pattern::List(_) => "it lists no tensors".to_owned(),
            Pattern::Prefix(prefix) => format!("no tensor's name begins with {}", quoted(prefix)),
            #[cfg(feature = "regex")]
            Pattern::Regex(regex) => {
                format!("no tensor's name matches the regular expression {}", quoted(regex.as_str()))
            }
        }
    }

    /// The number of a group; `None` if there is none of that name or number.
    fn group(&self, name: &str) -> Option<usize> {
        let number = name.parse().ok();
        match self {
            #[cfg(feature = "regex")]
            Pattern::Regex(regex) => match number {
                Some(number) => (number < regex.captures_len()).then_some(number),
                None => regex.capture_names().position(|n| n == Some(name)),
            },
            _ => number.filter(|&number: &usize| number == 0),
        }
    }
}

/// A name to be made of what matched.
pub(super) struct Template {
    pieces: Vec<Piece>,
}

enum Piece {
    Text(String),
    Group(usize),
}

impl Template {
    /// Reads a template whose groups are those of `pattern`.
    pub(super) fn new(text: &str, pattern: &Pattern<'_>) -> Result<Template, ConversionError> {
        let wrong = |what: &str| invalid(format!("the template {}: {what}", quoted(text)));
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            pieces.push(Piece::Text(before.to_owned()));
            if let Some(after) = after.strip_prefix('$') {
                pieces.push(Piece::Text("$".to_owned()));
                rest = after;
                continue;
            }
            let (group, after) = match after.strip_prefix('{') {
                Some(inner) => inner.split_once('}').ok_or_else(|| wrong("'${' without its '}'"))?,
                None => after.split_at(after.bytes().take_while(u8::is_ascii_digit).count()),
            };
            if group.is_empty() {
                return Err(wrong("'$' is followed by a number, a {name} or another '$'"));
            }
            let number = pattern.group(group);
            pieces.push(Piece::Group(
                number.ok_or_else(|| wrong(&format!("the pattern has no group {}", quoted(group))))?,
            ));
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Template { pieces })
    }

    /// `name` with the part that matched replaced.
    pub(super) fn expand(&self, name: &str, found: &Match) -> String {
        let part = found.part(0);
        let mut text = name.get(..part.start).unwrap_or_default().to_owned();
        for piece in &self.pieces {
            text.push_str(match piece {
                Piece::Text(text) => text,
                Piece::Group(number) => name.get(found.part(*number)).unwrap_or_default(),
            });
        }
        text.push_str(name.get(part.end..).unwrap_or_default());
        text
    }
}

impl Match {
    /// A group that took no part is empty.
    fn part(&self, number: usize) -> Range<usize> {
        self.0.get(number).cloned().flatten().unwrap_or_default()
    }
}

fn invalid(message: String) -> ConversionError {
    ConversionError::new(ConversionErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(names: &Names, template: &str, name: &str) -> Option<String> {
        let pattern = Pattern::new(names).unwrap();
        let template = Template::new(template, &pattern).unwrap();
        Some(template.expand(name, &pattern.find(name)?))
    }

    #[test]
    fn what_matched_is_replaced() {
        let check = |names: &Names, template, name, expected: Option<&str>| {
            assert_eq!(renamed(names, template, name).as_deref(), expected, "{names:?} {template} {name}");
        };
        check(&"a.b".into(), "c", "a.b", Some("c"));
        check(&"a.b".into(), "c", "a.bb", None);
        check(&["a", "b"].into(), "x.$0", "b", Some("x.b"));
        check(&Names::prefix("model."), "", "model.a", Some("a"));
        check(&Names::prefix("model."), "$0$$1", "model.a", Some("model.$1a"));
        check(&Names::all(), "x.", "größe", Some("x.größe"));
    }

    #[test]
    #[cfg(feature = "regex")]
    fn groups_of_regular_expressions() {
        let check = |regex: &str, template, name, expected: Option<&str>| {
            assert_eq!(renamed(&Names::regex(regex), template, name).as_deref(), expected, "{regex} {name}");
        };
        check(r"\.qkv\.", ".q.", "a.qkv.weight", Some("a.q.weight"));
        check(r"^layers\.(\d+)\.", "blocks.$1.", "layers.12.w", Some("blocks.12.w"));
        check(r"(?P<kind>weight|bias)$", "x_${kind}", "a.bias", Some("a.x_bias"));
        check(r"(a)|(b)", "<$1$2>", "xb", Some("x<b>"));
        check(r"(.)", "${1}0", "ab", Some("a0b"));
        check("^q", "k", "a.q", None);
    }

    #[test]
    fn wrong_patterns_and_templates() {
        let exact = Names::from("a");
        let pattern = Pattern::new(&exact).unwrap();
        for wrong in ["$", "a$b", "${0", "$1", "${name}", "$99999999999999999999999"] {
            assert!(Template::new(wrong, &pattern).is_err(), "{wrong}");
        }
        #[cfg(feature = "regex")]
        assert!(Pattern::new(&Names::regex("(")).is_err());
    }
}
