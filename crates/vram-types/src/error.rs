//! Errors of this crate and of every [`WeightSource`](crate::WeightSource).

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::{DType, Shape};

/// A dtype and shape that no tensor can have, or a cast that does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TypeError {
    /// The size in bytes overflows a `u64`.
    Overflow {
        /// Element type.
        dtype: DType,
        /// Extents.
        shape: Shape,
    },
    /// The elements do not fill a whole number of bytes.
    PartialByte {
        /// Element type.
        dtype: DType,
        /// Extents.
        shape: Shape,
    },
    /// There is no cast between the two dtypes.
    NoCast {
        /// Element type of the input.
        from: DType,
        /// Element type asked for.
        to: DType,
    },
    /// A buffer has not the length that its elements need.
    Length {
        /// What the length belongs to.
        what: &'static str,
        /// Bytes needed.
        expected: u64,
        /// Bytes given.
        actual: u64,
    },
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypeError::Overflow { dtype, shape } => {
                write!(f, "the size of a {dtype} tensor of shape {shape} overflows")
            }
            TypeError::PartialByte { dtype, shape } => {
                write!(f, "a {dtype} tensor of shape {shape} is not a whole number of bytes")
            }
            TypeError::NoCast { from, to } => write!(f, "there is no cast from {from} to {to}"),
            TypeError::Length { what, expected, actual } => {
                write!(f, "{what} has {actual} bytes where {expected} are needed")
            }
        }
    }
}

impl Error for TypeError {}

/// What went wrong in a [`SourceError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// No tensor or file of that name.
    NotFound,
    /// The operating system failed the read.
    Io,
    /// The file ended before the bytes that were asked for.
    Truncated,
    /// The file is not what its format demands.
    Invalid,
    /// The request lies outside the tensor, or the buffer does not fit it.
    OutOfRange,
    /// The source cannot do this at all (a conversion that does not exist, an option of another platform).
    Unsupported,
    /// The reader was told to stop.
    Cancelled,
}

impl fmt::Display for SourceErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceErrorKind::NotFound => "not found",
            SourceErrorKind::Io => "I/O error",
            SourceErrorKind::Truncated => "truncated",
            SourceErrorKind::Invalid => "invalid",
            SourceErrorKind::OutOfRange => "out of range",
            SourceErrorKind::Unsupported => "unsupported",
            SourceErrorKind::Cancelled => "cancelled",
        })
    }
}

/// A weight could not be found or read: which file, which tensor, where in the file, and whether trying again may help.
///
/// Prints as `model.safetensors: tensor "a.weight": at byte 4096: truncated: the file ends at byte 5000`.
pub struct SourceError {
    kind: SourceErrorKind,
    message: String,
    path: Option<PathBuf>,
    tensor: Option<String>,
    offset: Option<u64>,
    retryable: bool,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SourceError {
    /// An error of that kind; `message` says what a person needs beyond file, tensor and offset.
    pub fn new(kind: SourceErrorKind, message: impl Into<String>) -> SourceError {
        SourceError {
            kind,
            message: message.into(),
            path: None,
            tensor: None,
            offset: None,
            retryable: false,
            source: None,
        }
    }

    /// An error of the operating system; interrupted and timed-out calls count as retryable.
    pub fn io(error: std::io::Error) -> SourceError {
        use std::io::ErrorKind;
        let kind = match error.kind() {
            ErrorKind::NotFound => SourceErrorKind::NotFound,
            ErrorKind::UnexpectedEof => SourceErrorKind::Truncated,
            _ => SourceErrorKind::Io,
        };
        let retryable =
            matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::TimedOut | ErrorKind::WouldBlock);
        let mut e = SourceError::new(kind, error.to_string());
        e.retryable = retryable;
        e.source = Some(Box::new(error));
        e
    }

    /// Names the file.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<PathBuf>) -> SourceError {
        self.path = Some(path.into());
        self
    }

    /// Names the tensor.
    #[must_use]
    pub fn at_tensor(mut self, name: impl Into<String>) -> SourceError {
        self.tensor = Some(name.into());
        self
    }

    /// Names the offset in the file, in bytes.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> SourceError {
        self.offset = Some(offset);
        self
    }

    /// Keeps the error below this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> SourceError {
        self.source = Some(source.into());
        self
    }

    /// Says whether trying again may help.
    #[must_use]
    pub fn retryable(mut self, yes: bool) -> SourceError {
        self.retryable = yes;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> SourceErrorKind {
        self.kind
    }
    /// The file, if one is concerned.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
    /// The tensor, if one is concerned.
    pub fn tensor(&self) -> Option<&str> {
        self.tensor.as_deref()
    }
    /// Offset in the file in bytes, if one is known.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }
    /// What a person needs beyond file, tensor and offset.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// Whether trying again may help.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {tensor:?}: ")?;
        }
        if let Some(offset) = self.offset {
            write!(f, "at byte {offset}: ")?;
        }
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl fmt::Debug for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceError({self})")
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn Error + 'static))
    }
}
