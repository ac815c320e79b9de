//! What can be wrong with text, or with what turns it into ids.

use std::fmt;

/// Text cannot be turned into ids, or ids into text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextError {
    /// The tokenizer's own data is missing or damaged.
    Damaged(String),
    /// It is of a kind that is not built here.
    Unsupported(String),
    /// This text, or these ids, cannot be turned.
    Text(String),
    /// The chat template cannot be read, or it refuses the messages.
    Template(String),
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TextError::Damaged(what) => write!(f, "the tokenizer is damaged: {what}"),
            TextError::Unsupported(what) | TextError::Text(what) => f.write_str(what),
            TextError::Template(what) => write!(f, "the chat template: {what}"),
        }
    }
}

impl std::error::Error for TextError {}
