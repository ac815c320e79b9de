//! Errors of devices and kernels.

use std::error::Error;
use std::fmt;

use vram_types::{DType, Shape, TypeError};

use crate::BudgetExceeded;

/// A device refused or failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceError {
    /// The reservation would pass the budget.
    Budget(BudgetExceeded),
    /// The device itself has not the memory, whatever the budget says.
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// What the driver or system said.
        reason: String,
    },
    /// The backend or option cannot be used on this machine.
    Unavailable {
        /// Which.
        what: String,
        /// Why.
        reason: String,
    },
    /// A range lies outside its memory, or the memory is of another device.
    OutOfRange {
        /// What was addressed.
        what: &'static str,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The tensors of an operation do not fit together, or are not where the device can use them.
    Shape {
        /// Name of the operation.
        op: &'static str,
        /// What does not fit.
        message: String,
    },
    /// The device has no kernel for an operation, or none for a dtype.
    Unsupported {
        /// Name of the operation.
        op: &'static str,
        /// The dtype, if the operation is there for others.
        dtype: Option<DType>,
        /// What there is instead, or what is missing.
        why: String,
    },
    /// A dtype and shape have no size.
    Type(TypeError),
    /// A call failed, and the device goes on.
    Failed {
        /// What was called or given.
        what: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// The device is lost; nothing on it can be used again.
    Lost {
        /// What the driver said.
        reason: String,
    },
}

impl DeviceError {
    /// Whether less memory, elsewhere or later, may help.
    pub fn is_oom(&self) -> bool {
        matches!(self, DeviceError::Budget(_) | DeviceError::OutOfMemory { .. })
    }

    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> DeviceError {
        DeviceError::Shape { op, message: message.into() }
    }

    /// A variant of an operation that a backend has no kernel for.
    pub(crate) fn unsupported(op: &'static str, why: impl Into<String>) -> DeviceError {
        DeviceError::Unsupported { op, dtype: None, why: why.into() }
    }

    pub(crate) fn mismatch(op: &'static str, what: &str, expected: &Shape, actual: &Shape) -> DeviceError {
        DeviceError::shape(op, format!("{what} has shape {actual} where {expected} is needed"))
    }

    /// No version for a dtype.
    pub(crate) fn dtype(op: &'static str, dtype: DType, why: impl Into<String>) -> DeviceError {
        DeviceError::Unsupported { op, dtype: Some(dtype), why: why.into() }
    }

    /// Memory that a kernel of this device cannot reach.
    pub(crate) fn foreign(op: &'static str) -> DeviceError {
        DeviceError::shape(op, "the memory is of another device, or absent")
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceError::Budget(e) => e.fmt(f),
            DeviceError::OutOfMemory { bytes, reason } => {
                write!(f, "the device could not allocate {bytes} bytes: {reason}")
            }
            DeviceError::Unavailable { what, reason } => write!(f, "{what} is not available: {reason}"),
            DeviceError::OutOfRange { what, offset, bytes, available } => {
                write!(f, "{what}: {bytes} bytes at {offset} lie outside {available} bytes")
            }
            DeviceError::Shape { op, message } => write!(f, "kernel {op}: {message}"),
            DeviceError::Unsupported { op, dtype: Some(dtype), why } => {
                write!(f, "kernel {op} does not take {dtype}: {why}")
            }
            DeviceError::Unsupported { op, dtype: None, why } => write!(f, "no kernel for {op}: {why}"),
            DeviceError::Type(e) => e.fmt(f),
            DeviceError::Failed { what, reason } => write!(f, "{what} failed: {reason}"),
            DeviceError::Lost { reason } => write!(f, "the device is lost: {reason}"),
        }
    }
}

impl Error for DeviceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            DeviceError::Budget(e) => Some(e),
            DeviceError::Type(e) => Some(e),
            _ => None,
        }
    }
}

impl From<BudgetExceeded> for DeviceError {
    fn from(e: BudgetExceeded) -> DeviceError {
        DeviceError::Budget(e)
    }
}

impl From<TypeError> for DeviceError {
    fn from(e: TypeError) -> DeviceError {
        DeviceError::Type(e)
    }
}
