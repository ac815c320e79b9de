//! A new state dict made of an old one, as a description that is compiled into reads.

mod compile;
mod converted;
mod error;
mod expr;
mod gather;
mod identity;
mod layout;
mod pattern;
mod rule;
mod rules;
#[cfg(feature = "toml")]
mod text;

pub use converted::Converted;
pub use error::{ConversionError, ConversionErrorKind};
pub use rule::{Names, Rule};
pub use rules::Conversion;
