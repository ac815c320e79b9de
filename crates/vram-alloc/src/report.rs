//! What fits and what does not between a model and a checkpoint.

use std::fmt;

use vram_types::{ByteSize, DType, TensorMeta};

/// A tensor that is there but cannot be the parameter of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Name of the parameter.
    pub name: String,
    /// The parameter's dtype and shape.
    pub expected: TensorMeta,
    /// The tensor's.
    pub found: TensorMeta,
    /// The dtype asked for, if there is no cast to it and the shape is right.
    pub no_cast_to: Option<DType>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.no_cast_to {
            Some(to) => write!(f, "{} (no cast from {} to {to})", self.name, self.found.dtype()),
            None => {
                write!(f, "{} ({} where {} is needed)", self.name, self.found.shape(), self.expected.shape())
            }
        }
    }
}

/// What [`load`](crate::load()) did, or [`check`](crate::check) would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that have, or would have, their bytes from the source; each of several tied ones counts.
    pub parameters: usize,
    /// Tensors read for them. Fewer than the parameters where some are tied.
    pub tensors: usize,
    /// Bytes read for them, in the checkpoint's dtypes.
    pub bytes: u64,
    /// Weights and persistent buffers that the source has not, by the first of their names.
    pub missing: Vec<String>,
    /// Tensors of the source that are no parameter of the model, by the source's names.
    pub unexpected: Vec<String>,
    /// Tensors of the right name and the wrong shape or dtype.
    pub mismatched: Vec<Mismatch>,
}

impl LoadReport {
    /// Whether nothing is missing, unexpected or mismatched.
    pub fn is_exact(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, tensors) = (ByteSize(self.bytes), self.tensors);
        write!(f, "{} parameters from {tensors} tensors ({size})", self.parameters)?;
        list(f, "missing", &self.missing)?;
        list(f, "unexpected", &self.unexpected)?;
        list(f, "mismatched", &self.mismatched)
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, what: &str, items: &[T]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "; {} {what}: ", items.len())?;
    for (i, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
    }
    Ok(())
}
