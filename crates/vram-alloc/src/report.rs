//! How well a model and a checkpoint match.

use std::fmt;

use vram_types::{ByteSize, DType, TensorMeta};

/// A tensor that exists but cannot become the parameter of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Name of the parameter.
    pub name: String,
    /// Dtype and shape of the parameter.
    pub expected: TensorMeta,
    /// Dtype and shape of the tensor.
    pub found: TensorMeta,
    /// The requested dtype, if the shape is right but no cast leads to it.
    pub no_cast_to: Option<DType>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.no_cast_to {
            Some(to) => write!(f, "{} (no cast from {} to {to})", self.name, self.found.dtype()),
            None => {
                write!(f, "{} ({}, but must be {})", self.name, self.found.shape(), self.expected.shape())
            }
        }
    }
}

/// What [`load`](crate::load()) did, or [`check`](crate::check) would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that have, or would have, their values from the source. Each of several tied
    /// parameters counts.
    pub parameters: usize,
    /// Tensors read for them; fewer than the parameters if some are tied.
    pub tensors: usize,
    /// Bytes read for them, in the checkpoint's dtypes.
    pub bytes: u64,
    /// Weights and persistent buffers that the source lacks, by the first of their names.
    pub missing: Vec<String>,
    /// Tensors of the source that are no parameters of the model, by their names in the source.
    pub unexpected: Vec<String>,
    /// Tensors with the right name and a wrong shape or dtype.
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
