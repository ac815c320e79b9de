//! Errors of the engine and the layers.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use vram_device::DeviceError;
use vram_types::{ByteSize, SourceError, TypeError};

use crate::state::ForbiddenTransition;

/// What can go wrong when a model is put under management or run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A pass does not fit the budget, not even with one tile of weights at a time.
    BudgetTooSmall {
        /// The smallest budget in bytes that works for this pass.
        needed: u64,
        /// The budget in bytes.
        given: u64,
        /// Of `needed`: activations and scratch.
        workspace: u64,
        /// Of `needed`: the largest piece of weights that must be on the device at once.
        weights: u64,
    },
    /// A weight could not be read.
    Source(Arc<SourceError>),
    /// The device refused or failed.
    Device(Arc<DeviceError>),
    /// Another pass of the same engine is running.
    Busy,
    /// The model is offloaded; `onload()` comes first.
    Offloaded,
    /// A change of state that the table does not have.
    State(ForbiddenTransition),
    /// The model or its map is not what the engine can manage.
    Model(String),
    /// What was asked for cannot be done on this device.
    Unsupported(String),
    /// Tensors that do not fit together, or a layer that was not registered.
    Shape(String),
    /// A profile that is not, or that makes no sense.
    Profile {
        /// Its name or file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The pass was cancelled.
    Cancelled,
}

impl Error {
    /// Whether a larger budget, or more memory, may help.
    pub fn is_oom(&self) -> bool {
        match self {
            Error::BudgetTooSmall { .. } => true,
            Error::Device(e) => e.is_oom(),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BudgetTooSmall { needed, given, workspace, weights } => write!(
                f,
                "the budget is too small: {given} bytes ({}) given, the smallest that works is {needed} bytes ({}): \
                 {workspace} for activations and scratch and {weights} for the largest piece of weights",
                ByteSize(*given),
                ByteSize(*needed)
            ),
            Error::Source(e) => e.fmt(f),
            Error::Device(e) => e.fmt(f),
            Error::Busy => {
                f.write_str("another pass of this engine is running; passes come one after the other")
            }
            Error::Offloaded => f.write_str("the model is offloaded; call onload() first"),
            Error::State(e) => e.fmt(f),
            Error::Model(message) | Error::Unsupported(message) | Error::Shape(message) => {
                f.write_str(message)
            }
            Error::Profile { name, reason } => write!(f, "profile {name:?}: {reason}"),
            Error::Cancelled => f.write_str("the pass was cancelled"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Source(e) => Some(&**e),
            Error::Device(e) => Some(&**e),
            Error::State(e) => Some(e),
            _ => None,
        }
    }
}

impl From<SourceError> for Error {
    fn from(e: SourceError) -> Error {
        match e.kind() {
            vram_types::SourceErrorKind::Cancelled => Error::Cancelled,
            _ => Error::Source(Arc::new(e)),
        }
    }
}

impl From<DeviceError> for Error {
    fn from(e: DeviceError) -> Error {
        Error::Device(Arc::new(e))
    }
}

impl From<TypeError> for Error {
    fn from(e: TypeError) -> Error {
        Error::Device(Arc::new(DeviceError::Type(e)))
    }
}

impl From<ForbiddenTransition> for Error {
    fn from(e: ForbiddenTransition) -> Error {
        Error::State(e)
    }
}
