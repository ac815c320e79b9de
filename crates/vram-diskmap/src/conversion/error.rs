//! What is wrong with a conversion.

use std::error::Error;
use std::fmt;
use std::path::Path;

/// What went wrong in a [`ConversionError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConversionErrorKind {
    /// A rule names a tensor that is not there, or matches none.
    NotFound,
    /// Two tensors would have one name.
    Duplicate,
    /// Extents, ranges or axes do not fit the tensor.
    Shape,
    /// There is no such cast, elements would be cut in the middle of a byte or block, or too much
    /// is asked for.
    Unsupported,
    /// The rule itself is none: a pattern, a template, a field.
    Invalid,
    /// The file of rules could not be read.
    Io,
}

/// A [`Conversion`](crate::Conversion) that cannot be read, or that does not fit the checkpoint:
/// which rule, which tensor.
///
/// Prints as
/// `split.toml: line 7: rule 2 (split): tensor "a.qkv.weight": 100 + 100 are not the 384 of extent 0`.
pub struct ConversionError {
    kind: ConversionErrorKind,
    message: Box<str>,
    tensor: Option<Box<str>>,
    /// Its number, counted from 1, and what it does.
    rule: Option<(usize, &'static str)>,
    line: Option<usize>,
    path: Option<Box<Path>>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ConversionError {
    pub(super) fn new(kind: ConversionErrorKind, message: impl Into<String>) -> ConversionError {
        let message = message.into().into_boxed_str();
        ConversionError { kind, message, tensor: None, rule: None, line: None, path: None, source: None }
    }

    /// Names the tensor, unless a more precise place has named one already.
    pub(super) fn of(mut self, tensor: &str) -> ConversionError {
        self.tensor.get_or_insert_with(|| tensor.into());
        self
    }

    pub(super) fn at_rule(mut self, number: usize, what: &'static str) -> ConversionError {
        self.rule = Some((number, what));
        self
    }

    pub(super) fn at_line(mut self, line: Option<usize>) -> ConversionError {
        self.line = line;
        self
    }

    pub(super) fn at_path(mut self, path: Option<&Path>) -> ConversionError {
        self.path = path.map(Into::into);
        self
    }

    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> ConversionError {
        self.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ConversionErrorKind {
        self.kind
    }

    /// The rule's number, counted from 1, if one is concerned.
    pub fn rule(&self) -> Option<usize> {
        self.rule.map(|(number, _)| number)
    }

    /// Where the rule begins in the file of rules, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// The file of rules.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The tensor, if one is concerned: as it is called when the rule is applied.
    pub fn tensor(&self) -> Option<&str> {
        self.tensor.as_deref()
    }

    /// What a person needs beyond file, rule and tensor.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for ConversionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path() {
            write!(f, "{}: ", path.display())?;
        }
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some((number, what)) = self.rule {
            write!(f, "rule {number} ({what}): ")?;
        }
        if let Some(tensor) = self.tensor() {
            write!(f, "tensor {tensor:?}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Debug for ConversionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConversionError({self})")
    }
}

impl Error for ConversionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}

/// A failure to read the file of rules.
#[cfg(feature = "toml")]
pub(super) fn unread(path: &Path, error: std::io::Error) -> ConversionError {
    ConversionError::new(ConversionErrorKind::Io, error.to_string()).at_path(Some(path)).caused_by(error)
}
