//! The error of this crate.

use std::fmt;

use vram_types::{DType, Shape, SourceError, TypeError};

use crate::LoadReport;

/// Why a parameter could not be created, loaded or packed.
#[derive(Debug)]
#[non_exhaustive]
pub enum AllocError {
    /// Host memory for a tensor could not be allocated.
    OutOfMemory {
        /// Bytes that were requested.
        bytes: u64,
    },
    /// The dtype cannot hold the values of the initialisation, such as normal values in an integer
    /// dtype.
    Init {
        /// Dtype of the parameter.
        dtype: DType,
    },
    /// The storage has another shape than the parameter.
    Shape {
        /// Shape of the parameter.
        expected: Shape,
        /// Shape of the storage.
        actual: Shape,
    },
    /// Model and checkpoint do not match; the report lists all differences.
    Incompatible(Box<LoadReport>),
    /// The source failed.
    Source(SourceError),
    /// A size, length or cast that is not possible.
    Type(TypeError),
    /// The pieces or options passed to [`pack`](crate::pack::pack) are inconsistent, or a size
    /// overflows.
    Pack {
        /// What is wrong.
        reason: &'static str,
        /// Index of the piece at fault, if it is one piece.
        piece: Option<usize>,
    },
}

impl AllocError {
    /// Whether freeing memory elsewhere may help.
    pub fn is_oom(&self) -> bool {
        matches!(self, AllocError::OutOfMemory { .. })
    }
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::OutOfMemory { bytes } => {
                write!(f, "out of host memory: {bytes} bytes could not be allocated")
            }
            AllocError::Init { dtype } => {
                write!(f, "a parameter of dtype {dtype} can only be initialised with zeros")
            }
            AllocError::Shape { expected, actual } => {
                write!(f, "the storage has shape {actual}, but the parameter has shape {expected}")
            }
            AllocError::Incompatible(report) => {
                write!(f, "the checkpoint does not fit the model: {report}")
            }
            AllocError::Source(e) => fmt::Display::fmt(e, f),
            AllocError::Type(e) => fmt::Display::fmt(e, f),
            AllocError::Pack { reason, piece: Some(i) } => write!(f, "cannot pack piece {i}: {reason}"),
            AllocError::Pack { reason, piece: None } => write!(f, "cannot pack: {reason}"),
        }
    }
}

impl std::error::Error for AllocError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Display already prints these errors, so the chain continues with their sources.
            AllocError::Source(e) => std::error::Error::source(e),
            _ => None,
        }
    }
}

impl From<SourceError> for AllocError {
    fn from(e: SourceError) -> AllocError {
        AllocError::Source(e)
    }
}

impl From<TypeError> for AllocError {
    fn from(e: TypeError) -> AllocError {
        AllocError::Type(e)
    }
}
