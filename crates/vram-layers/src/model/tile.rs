//! Operations on the weights of one layer, tile by tile.

use std::ops::Range;

use vram_alloc::Parameter;
use vram_device::ops::Op;
use vram_device::{Kernels, View};

use crate::engine::Lease;
use crate::error::Error;
use crate::model::binding::Bindings;
use crate::model::run::{Run, scratch_meta};
use crate::model::tensor::Tensor;
use crate::spec::LayerId;

/// Some or all rows of a layer's weights, while operations are issued that read them.
/// [`Forward::run_with`](crate::Forward::run_with) gives one for each tile.
pub struct Tile<'t> {
    pub(crate) run: &'t mut dyn Run,
    pub(crate) kernels: &'t dyn Kernels,
    pub(crate) bindings: &'t Bindings,
    pub(crate) layer: LayerId,
    /// `None` in a dry run.
    pub(crate) lease: Option<&'t Lease>,
    pub(crate) kept: &'t mut Kept,
}

/// What one tile leaves for the next.
#[derive(Default)]
pub(crate) struct Kept {
    scratch: Option<Tensor>,
    /// Which operation of a tile last wrote the scratch.
    written_by: Option<usize>,
    /// Operations of the current tile so far.
    issued: usize,
}

impl Kept {
    pub(crate) fn next_tile(&mut self) {
        self.issued = 0;
    }
}

impl<'t> Tile<'t> {
    /// A parameter of the layer, or the rows of it that this tile has; without bytes in a dry run. The weight
    /// of a [`Linear`](crate::layers::Linear) and the table of an [`Embedding`](crate::layers::Embedding) may
    /// be encoded.
    ///
    /// # Errors
    /// [`Error::Model`] for a parameter of another layer.
    pub fn tensor(&self, parameter: &Parameter) -> Result<View<'t>, Error> {
        let binding = self.bindings.get(&parameter.id()).filter(|binding| binding.layer == self.layer);
        let binding = binding.ok_or_else(|| {
            let shape = parameter.meta().shape();
            Error::Model(format!("a parameter of shape {shape} is not of layer {}", self.layer.0))
        })?;
        match self.lease {
            Some(lease) => lease.tensor(binding.index),
            None => Ok(View::encoded_absent(parameter.meta().shape().clone(), binding.encoding)?),
        }
    }

    /// The rows of this tile if the layer comes in tiles; `None` for all rows, and in a dry run.
    pub fn rows(&self) -> Option<Range<usize>> {
        self.lease.and_then(Lease::rows)
    }

    /// The lease on the weights, for custom kernels; `None` in a dry run.
    pub fn lease(&self) -> Option<&'t Lease> {
        self.lease
    }

    /// Runs an operation with scratch memory of the pass. All tiles share the scratch. If nothing else has
    /// written to it, a linear layer reuses what it packed for the previous tile, so its input must be the
    /// same for all tiles.
    ///
    /// # Errors
    /// As [`Forward::run`](crate::Forward::run).
    pub fn run<'a>(&mut self, op: impl Into<Op<'a>>) -> Result<(), Error> {
        let mut op = op.into();
        let place = self.kept.issued;
        self.kept.issued += 1;
        let needed = scratch_meta(self.kernels, &op)?;
        if needed.bytes() > 0 {
            if self.kept.scratch.as_ref().is_none_or(|scratch| scratch.meta().bytes() < needed.bytes()) {
                // Drop the old one first, so that both are never held at once.
                self.kept.scratch = None;
                self.kept.scratch = Some(self.run.tensor(needed)?);
                self.kept.written_by = None;
            }
            if let Op::Linear(linear) = &mut op {
                linear.packed = self.kept.written_by == Some(place);
            }
            self.kept.written_by = Some(place);
            let op = op.checked()?;
            return self.run.issue(op, self.kept.scratch.as_mut());
        }
        self.run.issue(op.checked()?, None)
    }
}

impl std::fmt::Debug for Tile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tile").field("layer", &self.layer).field("rows", &self.rows()).finish()
    }
}
