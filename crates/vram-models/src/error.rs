//! What can be wrong with a checkpoint or configuration.

use std::error::Error;
use std::fmt;

use vram_alloc::AllocError;

/// A model cannot be built from what it was given.
#[derive(Debug)]
#[non_exhaustive]
pub enum ModelError {
    /// The checkpoint has not the tensors that the architecture is told by, or not in such shapes.
    Checkpoint(String),
    /// The configuration asks for something that is not built here.
    Config(String),
    /// The parameters cannot be made.
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
