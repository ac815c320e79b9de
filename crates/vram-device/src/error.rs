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
    /// A kernel was given tensors that do not fit together.
    Shape {
        /// The kernel.
        kernel: &'static str,
        /// What does not fit.
        message: String,
    },
    /// A kernel has no version for the dtype.
    DType {
        /// The kernel.
        kernel: &'static str,
        /// The dtype.
        dtype: DType,
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

    pub(crate) fn shape(kernel: &'static str, message: impl Into<String>) -> DeviceError {
        DeviceError::Shape { kernel, message: message.into() }
    }

    pub(crate) fn mismatch(
        kernel: &'static str,
        what: &str,
        expected: &Shape,
        actual: &Shape,
    ) -> DeviceError {
        DeviceError::shape(kernel, format!("{what} has shape {actual} where {expected} is needed"))
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
            DeviceError::Shape { kernel, message } => write!(f, "kernel {kernel}: {message}"),
            DeviceError::DType { kernel, dtype } => write!(f, "kernel {kernel} does not take {dtype}"),
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
