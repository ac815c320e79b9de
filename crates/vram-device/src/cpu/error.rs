//! Errors of CPU kernels.

use std::fmt;

use vram_types::{DType, Encoding};

/// A kernel was called with arguments that it cannot compute on. Nothing has been written in that case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// The requested instruction-set path does not exist or is not supported by this machine.
    Isa {
        /// What was asked for.
        asked: String,
        /// Why it is not available.
        reason: String,
    },
    /// A slice does not have the length that its shape needs.
    Length {
        /// Which argument.
        what: &'static str,
        /// Bytes needed (at least).
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The kernel does not support this dtype for this argument.
    DType {
        /// Which argument.
        what: &'static str,
        /// Its dtype.
        dtype: DType,
    },
    /// The kernel cannot decode this encoding for this argument.
    Encoding {
        /// Which argument.
        what: &'static str,
        /// How it is stored.
        encoding: Encoding,
    },
    /// Contradictory extents.
    Shape {
        /// Which rule is broken.
        what: &'static str,
    },
    /// An index is past the end of a table.
    Index {
        /// Which argument.
        what: &'static str,
        /// The index.
        index: u64,
        /// Rows of the table.
        len: u64,
    },
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::Isa { asked, reason } => write!(f, "instruction-set path {asked:?}: {reason}"),
            KernelError::Length { what, needed, given } => {
                write!(f, "{what} has {given} bytes where {needed} are needed")
            }
            KernelError::DType { what, dtype } => write!(f, "{what} cannot be {dtype}"),
            KernelError::Encoding { what, encoding } => write!(f, "{what} cannot be {encoding}"),
            KernelError::Shape { what } => f.write_str(what),
            KernelError::Index { what, index, len } => {
                write!(f, "{what} {index} is out of range: there are {len}")
            }
        }
    }
}

impl std::error::Error for KernelError {}

/// Fails if `given` is less than the product of `extents`.
pub(crate) fn check_len(what: &'static str, given: usize, extents: &[usize]) -> Result<(), KernelError> {
    let needed = extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).unwrap_or(usize::MAX);
    if given < needed {
        return Err(KernelError::Length { what, needed, given });
    }
    Ok(())
}
