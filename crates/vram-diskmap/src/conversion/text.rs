//! Rules in TOML.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::error::{ConversionError, ConversionErrorKind, unread};
use super::rule::{Names, Rule};
use super::rules::{Action, Conversion, Step};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    rule: Vec<Spanned<Rule>>,
}

impl Conversion {
    /// Reads rules from TOML: a `[[rule]]` for each, in their order, with what it does as its only
    /// key. `docs/formats.md` has an example of every one.
    ///
    /// ```
    /// let conversion = vram_diskmap::Conversion::from_toml(r#"
    ///     [[rule]]
    ///     rename = { tensors = { prefix = "model." }, to = "" }
    ///
    ///     [[rule]]
    ///     split = { tensors = { regex = '\.qkv\.' }, into = [".q.", ".k.", ".v."] }
    /// "#)?;
    /// assert!(!conversion.is_empty());
    /// # Ok::<(), vram_diskmap::ConversionError>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` with the line for what is no TOML, or no rule.
    pub fn from_toml(text: &str) -> Result<Conversion, ConversionError> {
        let line = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
        let rules: Rules = toml::from_str(text).map_err(|e| {
            let error = ConversionError::new(ConversionErrorKind::Invalid, e.message().replace('\n', ", "));
            error.at_line(e.span().map(|span| line(span.start))).caused_by(e)
        })?;
        let step = |rule: Spanned<Rule>| Step {
            line: Some(line(rule.span().start)),
            action: Action::Rule(rule.into_inner()),
        };
        Ok(Conversion { steps: rules.rule.into_iter().map(step).collect(), path: None })
    }

    /// Reads rules from a TOML file, which errors then name.
    ///
    /// # Errors
    /// As [`from_toml`](Conversion::from_toml); `Io`.
    pub fn read_toml(path: impl AsRef<Path>) -> Result<Conversion, ConversionError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| unread(path, e))?;
        let mut conversion = Conversion::from_toml(&text).map_err(|e| e.at_path(Some(path)))?;
        conversion.path = Some(path.to_owned());
        Ok(conversion)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Names, D::Error> {
        from.deserialize_any(AnyNames)
    }
}

struct AnyNames;

impl<'de> Visitor<'de> for AnyNames {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name, a list of names, { prefix = \"...\" } or { regex = '...' }")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Names, E> {
        Ok(Names::Exact(name.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
        let mut list = Vec::new();
        while let Some(name) = names.next_element()? {
            list.push(name);
        }
        Ok(Names::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Names, A::Error> {
        let Some((key, value)) = fields.next_entry::<String, String>()? else {
            return Err(A::Error::invalid_length(0, &self));
        };
        let names = match key.as_str() {
            "prefix" => Names::Prefix(value),
            "regex" => Names::Regex(value),
            other => return Err(A::Error::unknown_field(other, &["prefix", "regex"])),
        };
        match fields.next_key::<String>()? {
            Some(_) => Err(A::Error::invalid_length(2, &self)),
            None => Ok(names),
        }
    }
}
