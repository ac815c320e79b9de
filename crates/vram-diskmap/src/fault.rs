//! Errors inside pure code, which knows no path.

use std::borrow::Cow;

use vram_types::{SourceError, SourceErrorKind};

/// What is wrong with some bytes: turned into a [`SourceError`] by whoever knows the file.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: SourceErrorKind,
    /// Offset in the text or file that was read.
    pub(crate) at: Option<u64>,
    pub(crate) tensor: Option<String>,
    pub(crate) message: Cow<'static, str>,
}

impl Fault {
    pub(crate) fn new(kind: SourceErrorKind, message: impl Into<Cow<'static, str>>) -> Fault {
        Fault { kind, at: None, tensor: None, message: message.into() }
    }

    pub(crate) fn invalid(at: usize, message: impl Into<Cow<'static, str>>) -> Fault {
        Fault { at: Some(at as u64), ..Fault::new(SourceErrorKind::Invalid, message) }
    }

    /// Names the tensor, unless a more precise place has named one already.
    pub(crate) fn of(mut self, tensor: &str) -> Fault {
        self.tensor.get_or_insert_with(|| tensor.to_owned());
        self
    }

    pub(crate) fn into_error(self) -> SourceError {
        let mut error = SourceError::new(self.kind, self.message);
        if let Some(at) = self.at {
            error = error.at_offset(at);
        }
        if let Some(tensor) = self.tensor {
            error = error.at_tensor(tensor);
        }
        error
    }
}

/// The end of a message about what [`lenient`](crate::DiskMapOptions::lenient) lets pass.
pub(crate) const LENIENT: &str = " (accepted with `lenient`)";

/// A name as error messages quote it: escaped, and cut where it is long.
pub(crate) fn quoted(name: &str) -> String {
    const MOST: usize = 120;
    match name.char_indices().nth(MOST) {
        None => format!("{name:?}"),
        Some((cut, _)) => format!("{:?}... ({} bytes)", &name[..cut], name.len()),
    }
}
