//! One error type for everything that this crate re-exports.

use std::error::Error as StdError;
use std::fmt;

use vram_alloc::AllocError;
use vram_device::{BudgetExceeded, DeviceError};
use vram_models::ModelError;
use vram_types::{ByteSize, SourceError, TypeError};

/// An error of any of the crates that this one re-exports. Each of their errors converts into it,
/// so `?` works on all of them.
///
/// Code that runs inside a pass returns [`vram_layers::Error`], which converts too.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The tensors do not fit the rest of the budget.
    BudgetTooSmall {
        /// Size of all tensors.
        needed: u64,
        /// The budget, and what its bytes are used for.
        source: BudgetExceeded,
    },
    /// A checkpoint cannot be opened, read or converted.
    Source(Box<SourceError>),
    /// The device refused or failed.
    Device(DeviceError),
    /// Parameters cannot be created or loaded.
    Alloc(Box<AllocError>),
    /// A model cannot be built from a checkpoint or its configuration.
    Model(Box<ModelError>),
    /// A model cannot be managed, or a pass failed.
    Run(vram_layers::Error),
}

impl Error {
    /// Whether a larger budget or more memory may help.
    pub fn is_oom(&self) -> bool {
        match self {
            Error::BudgetTooSmall { .. } => true,
            Error::Alloc(e) => matches!(**e, AllocError::OutOfMemory { .. }),
            Error::Device(e) => e.is_oom(),
            Error::Run(e) => e.is_oom(),
            Error::Source(_) | Error::Model(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BudgetTooSmall { needed, source } => write!(
                f,
                "all tensors need {needed} bytes ({}); {} of the budget's {} bytes are left",
                ByteSize(*needed),
                source.limit.saturating_sub(source.used.total()),
                source.limit
            ),
            Error::Source(e) => e.fmt(f),
            Error::Device(e) => e.fmt(f),
            Error::Alloc(e) => e.fmt(f),
            Error::Model(e) => e.fmt(f),
            Error::Run(e) => e.fmt(f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Error::BudgetTooSmall { source, .. } => source,
            Error::Source(e) => &**e,
            Error::Device(e) => e,
            Error::Alloc(e) => &**e,
            Error::Model(e) => &**e,
            Error::Run(e) => e,
        })
    }
}

macro_rules! from {
    ($($variant:ident($error:ty)),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(e: $error) -> Error {
                Error::$variant(e.into())
            }
        }
    )*};
}

from!(
    Source(SourceError),
    Device(DeviceError),
    Alloc(AllocError),
    Model(ModelError),
    Run(vram_layers::Error),
);

impl From<TypeError> for Error {
    fn from(e: TypeError) -> Error {
        Error::Device(DeviceError::Type(e))
    }
}
