//! Errors in checkpoints and configurations.

use std::error::Error;
use std::fmt;

use vram_alloc::AllocError;

/// A model cannot be built from its checkpoint or configuration.
#[derive(Debug)]
#[non_exhaustive]
pub enum ModelError {
    /// The checkpoint lacks tensors that identify the architecture, or their shapes are wrong.
    Checkpoint(String),
    /// The configuration asks for something that is not implemented.
    Config(String),
    /// The parameters cannot be allocated.
    Alloc(AllocError),
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelError::Checkpoint(message) | ModelError::Config(message) => f.write_str(message),
            ModelError::Alloc(e) => e.fmt(f),
        }
    }
}

impl Error for ModelError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ModelError::Alloc(e) => Some(e),
            ModelError::Checkpoint(_) | ModelError::Config(_) => None,
        }
    }
}

impl From<AllocError> for ModelError {
    fn from(e: AllocError) -> ModelError {
        ModelError::Alloc(e)
    }
}
