//! Errors of this crate and of every [`WeightSource`](crate::WeightSource).

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::{BlockType, DType, Shape};

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
    /// The rows do not fill a whole number of quantised blocks.
    PartialBlock {
        /// Type of the blocks.
        block: BlockType,
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
            TypeError::PartialBlock { block, shape } => {
                let elements = block.block_elements();
                write!(f, "rows of the shape {shape} are not whole {block} blocks of {elements} elements")
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
    /// Two tensors have the same name.
    Duplicate,
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
            SourceErrorKind::Duplicate => "duplicate",
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
    file: Option<File>,
    tensor: Option<String>,
    offset: Option<u64>,
    retryable: bool,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// The file that an error concerns.
enum File {
    Path(PathBuf),
    /// What is not a file of the system's.
    Name(String),
}

impl SourceError {
    /// An error of that kind; `message` says what a person needs beyond file, tensor and offset.
    pub fn new(kind: SourceErrorKind, message: impl Into<String>) -> SourceError {
        SourceError {
            kind,
            message: message.into(),
            file: None,
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
        let mut message = error.to_string();
        if let (SourceErrorKind::NotFound, Some((text, _))) = (kind, message.rsplit_once(" (os error ")) {
            message = text.to_owned();
        }
        let mut e = SourceError::new(kind, message);
        e.retryable = retryable;
        e.source = Some(Box::new(error));
        e
    }

    /// Names the file by its path.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<PathBuf>) -> SourceError {
        self.file = Some(File::Path(path.into()));
        self
    }

    /// Names the file as a source [describes](crate::WeightSource::describe) it, which may be a URL or "bytes in memory".
    #[must_use]
    pub fn at_file(mut self, name: impl Into<String>) -> SourceError {
        self.file = Some(File::Name(name.into()));
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
    /// The path of the file, if one is concerned and it has a path.
    pub fn path(&self) -> Option<&Path> {
        match &self.file {
            Some(File::Path(path)) => Some(path),
            _ => None,
        }
    }
    /// The name of the file, if one is concerned: its path, or how the source describes it.
    pub fn file(&self) -> Option<Cow<'_, str>> {
        match &self.file {
            Some(File::Path(path)) => Some(path.to_string_lossy()),
            Some(File::Name(name)) => Some(Cow::Borrowed(name)),
            None => None,
        }
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

impl From<TypeError> for SourceError {
    /// What a source would have to do and cannot: `Unsupported`.
    fn from(error: TypeError) -> SourceError {
        SourceError::new(SourceErrorKind::Unsupported, error.to_string()).caused_by(error)
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = self.file() {
            write!(f, "{file}: ")?;
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {tensor:?}: ")?;
        }
        if let Some(offset) = self.offset {
            write!(f, "at byte {offset}: ")?;
        }
        // The system's own words, "No such file or directory", need no kind before them.
        let is_said = self.kind == SourceErrorKind::NotFound
            && self.source.as_ref().is_some_and(|source| source.is::<std::io::Error>());
        if !is_said {
            write!(f, "{}: ", self.kind)?;
        }
        f.write_str(&self.message)
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
