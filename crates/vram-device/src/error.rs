//! Errors of devices and kernels.

use std::error::Error;
use std::fmt;

use vram_types::{DType, Shape, TypeError};

use crate::BudgetExceeded;

/// A device refused or failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceError {
    /// The reservation would exceed the budget.
    Budget(BudgetExceeded),
    /// The device itself is out of memory, whatever the budget says.
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// What the driver or system said.
        reason: String,
    },
    /// The backend or option cannot be used on this machine.
    Unavailable {
        /// Which backend or option.
        what: String,
        /// Why.
        reason: String,
    },
    /// A range is outside its memory, or the memory belongs to another device.
    OutOfRange {
        /// What was addressed.
        what: &'static str,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
        /// Bytes available.
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
        /// The dtype, if the operation is supported for others.
        dtype: Option<DType>,
        /// What is supported instead, or what is missing.
        why: String,
    },
    /// A dtype and shape whose size is undefined.
    Type(TypeError),
    /// A call failed, but the device still works.
    Failed {
        /// The call or argument.
        what: &'static str,
        /// What the driver said.
        reason: String,
    },
    /// The device is lost; nothing on it can be used any more.
    Lost {
        /// What the driver said.
        reason: String,
    },
}

impl DeviceError {
    /// Whether using less memory, another device, or trying later may help.
    pub fn is_oom(&self) -> bool {
        matches!(self, DeviceError::Budget(_) | DeviceError::OutOfMemory { .. })
    }

    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> DeviceError {
        DeviceError::Shape { op, message: message.into() }
    }

    /// The backend has no kernel for this variant of an operation.
    pub(crate) fn unsupported(op: &'static str, why: impl Into<String>) -> DeviceError {
        DeviceError::Unsupported { op, dtype: None, why: why.into() }
    }

    pub(crate) fn mismatch(op: &'static str, what: &str, expected: &Shape, actual: &Shape) -> DeviceError {
        DeviceError::shape(op, format!("{what} has shape {actual} where {expected} is needed"))
    }

    /// The backend has no kernel for this dtype.
    pub(crate) fn dtype(op: &'static str, dtype: DType, why: impl Into<String>) -> DeviceError {
        DeviceError::Unsupported { op, dtype: Some(dtype), why: why.into() }
    }

    /// Memory that a kernel of this device cannot reach.
    pub(crate) fn foreign(op: &'static str) -> DeviceError {
        DeviceError::shape(op, "the memory belongs to another device, or is absent")
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
