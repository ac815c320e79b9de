//! What a kernel refuses.

use std::fmt;

use vram_types::{DType, Encoding};

/// A kernel was called with something that it cannot compute on. Nothing has been written then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelError {
    /// An instruction-set path was asked for that does not exist or that this machine cannot take.
    Isa {
        /// What was asked for.
        asked: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// A slice has not the length that its shape needs.
    Length {
        /// Which argument.
        what: &'static str,
        /// Bytes needed (at least).
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The kernel does not know this dtype there.
    DType {
        /// Which argument.
        what: &'static str,
        /// Its dtype.
        dtype: DType,
    },
    /// The kernel cannot decode this there.
    Encoding {
        /// Which argument.
        what: &'static str,
        /// How it is stored.
        encoding: Encoding,
    },
    /// Extents that contradict one another.
    Shape {
        /// Which rule is broken.
        what: &'static str,
    },
    /// An index points past the end of a table.
    Index {
        /// Which argument.
        what: &'static str,
        /// The index.
        index: u64,
        /// Rows that there are.
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
            KernelError::Index { what, index, len } => write!(f, "{what} {index} is not below {len}"),
        }
    }
}

impl std::error::Error for KernelError {}

/// Fails unless `given` bytes are at least `rows * row` elements of `bytes` each.
pub(crate) fn check_len(what: &'static str, given: usize, extents: &[usize]) -> Result<(), KernelError> {
    let needed = extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e)).unwrap_or(usize::MAX);
    if given < needed {
        return Err(KernelError::Length { what, needed, given });
    }
    Ok(())
}
