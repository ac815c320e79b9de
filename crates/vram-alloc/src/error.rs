//! The error of this crate.

use std::fmt;

use vram_types::{DType, Shape, SourceError, TypeError};

use crate::LoadReport;

/// Why a parameter could not be made, loaded or packed.
#[derive(Debug)]
#[non_exhaustive]
pub enum AllocError {
    /// Host memory for a tensor could not be had.
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The dtype has no values such as the initialisation asks for, such as normal ones of an integer type.
    Init {
        /// Element type of the parameter.
        dtype: DType,
    },
    /// Storage of another shape than the parameter's.
    Shape {
        /// The parameter's.
        expected: Shape,
        /// The storage's.
        actual: Shape,
    },
    /// Model and checkpoint do not fit; the report lists all that does not.
    Incompatible(Box<LoadReport>),
    /// The source failed.
    Source(SourceError),
    /// A size, length or cast that does not exist.
    Type(TypeError),
    /// The pieces or options given to [`pack`](crate::pack::pack) contradict themselves or overflow.
    Pack {
        /// What is wrong.
        reason: &'static str,
        /// Index of the piece concerned.
        piece: Option<usize>,
    },
}

impl AllocError {
    /// Whether less memory in use elsewhere might have helped.
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
                write!(f, "a parameter of dtype {dtype} can be initialised with zeros only")
            }
            AllocError::Shape { expected, actual } => {
                write!(f, "storage of shape {actual} for a parameter of shape {expected}")
            }
            AllocError::Incompatible(report) => write!(f, "the checkpoint does not fit the model: {report}"),
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
            // Display prints these themselves, so what lies below them comes next.
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
