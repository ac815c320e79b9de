//! The three ways in which a forward runs: dry, for real, and as one of several that share a pass.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vram_device::ops::{Checked, Op, Operation};
use vram_device::{Arena, Kernels, Queue, Region};
use vram_types::TensorMeta;

use crate::engine::{ALIGN, Lease, Pass};
use crate::error::Error;
use crate::model::joined::Seat;
use crate::model::tensor::Tensor;
use crate::spec::LayerId;

/// The needs of a forward, found by a dry run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// Bytes of activations and scratch.
    pub(crate) workspace: u64,
    /// Layers in order of use.
    pub(crate) trace: Vec<LayerId>,
    /// Floating-point operations of the kernels that follow the use of a layer.
    pub(crate) flops: Vec<(LayerId, u64)>,
}

/// Operations on one tile of a layer's weights; a dry run has no lease.
pub(crate) type OnTile<'f> = dyn FnMut(&mut dyn Run, Option<&Lease>) -> Result<(), Error> + 'f;

/// How a forward runs.
pub(crate) trait Run {
    /// Whether this is a dry run: shapes are real, bytes are not.
    fn is_dry(&self) -> bool;

    /// Memory for an activation.
    fn tensor(&mut self, meta: TensorMeta) -> Result<Tensor, Error>;

    /// Issues an operation, or counts it.
    fn issue(&mut self, op: Checked<'_>, scratch: Option<&mut Tensor>) -> Result<(), Error>;

    /// Calls `f` once for each tile of a layer's weights.
    fn with_layer(&mut self, layer: LayerId, f: &mut OnTile<'_>) -> Result<(), Error>;

    /// Whether a whole layer is on the device.
    fn is_resident(&self, layer: LayerId) -> bool;

    /// Reads rows of the `index`-th tensor of a layer; `None` in a dry run, which only counts their bytes.
    fn gather(
        &mut self,
        layer: LayerId,
        index: usize,
        ids: &[u32],
        bytes: u64,
    ) -> Result<Option<Region>, Error>;
}

/// The scratch that an operation needs; `None` if it needs none.
pub(crate) fn scratch(
    run: &mut dyn Run,
    kernels: &dyn Kernels,
    op: &Op<'_>,
) -> Result<Option<Tensor>, Error> {
    match scratch_meta(kernels, op)? {
        meta if meta.bytes() == 0 => Ok(None),
        meta => run.tensor(meta).map(Some),
    }
}

pub(crate) fn scratch_meta(kernels: &dyn Kernels, op: &Op<'_>) -> Result<TensorMeta, Error> {
    let bytes = usize::try_from(kernels.scratch(op))
        .map_err(|e| Error::Shape(format!("a kernel's scratch overflows: {e}")))?;
    Ok(TensorMeta::new(vram_types::DType::U8, [bytes])?)
}

/// A dry run, which finds out what a forward needs.
pub(crate) struct Dry<'p> {
    kernels: &'p dyn Kernels,
    arena: Arena,
    needs: Needs,
    /// Its place among dry runs that measure their common workspace.
    seat: Option<Seat<'p>>,
}

impl<'p> Dry<'p> {
    pub(crate) fn new(kernels: &'p dyn Kernels) -> Dry<'p> {
        let arena = Arena::measuring_within(kernels.info().max_allocation);
        Dry { kernels, arena, needs: Needs::default(), seat: None }
    }

    /// One of several dry runs that measure in one arena.
    pub(crate) fn joined(kernels: &'p dyn Kernels, arena: Arena, seat: Seat<'p>) -> Dry<'p> {
        Dry { kernels, arena, needs: Needs::default(), seat: Some(seat) }
    }

    /// What the forward needs.
    pub(crate) fn measured(self) -> Needs {
        Needs { workspace: self.arena.high_water(), ..self.needs }
    }
}

impl Run for Dry<'_> {
    fn is_dry(&self) -> bool {
        true
    }

    fn tensor(&mut self, meta: TensorMeta) -> Result<Tensor, Error> {
        let region = self.arena.alloc(meta.bytes(), ALIGN).ok_or_else(|| {
            let most = self.kernels.info().max_allocation;
            Error::Shape(format!(
                "an activation of shape {} has {} bytes, and the device has at most {most} in one piece",
                meta.shape(),
                meta.bytes()
            ))
        })?;
        Ok(Tensor::new(region, meta))
    }

    fn issue(&mut self, op: Checked<'_>, _: Option<&mut Tensor>) -> Result<(), Error> {
        self.kernels.takes(op.op())?;
        let count = op.op().flops();
        if let Some(&layer) = self.needs.trace.last().filter(|_| count > 0) {
            self.needs.flops.push((layer, count));
        }
        Ok(())
    }

    fn with_layer(&mut self, layer: LayerId, f: &mut OnTile<'_>) -> Result<(), Error> {
        self.seat.as_ref().map_or(Ok(()), |seat| seat.meet(layer))?;
        self.needs.trace.push(layer);
        f(self, None)?;
        // As in a real pass: what this forward keeps for the next tile is held while the others compute.
        self.seat.as_ref().map_or(Ok(()), Seat::pass_on)
    }

    fn is_resident(&self, _: LayerId) -> bool {
        false
    }

    fn gather(&mut self, layer: LayerId, _: usize, _: &[u32], bytes: u64) -> Result<Option<Region>, Error> {
        self.seat.as_ref().map_or(Ok(()), |seat| seat.meet(layer))?;
        drop(self.arena.alloc(bytes, ALIGN));
        Ok(None)
    }
}

/// A forward with its own pass.
pub(crate) struct Real<'p, 'e> {
    pub(crate) kernels: &'p dyn Kernels,
    pub(crate) pass: &'p mut Pass<'e>,
}

impl Run for Real<'_, '_> {
    fn is_dry(&self) -> bool {
        false
    }

    fn tensor(&mut self, meta: TensorMeta) -> Result<Tensor, Error> {
        Ok(Tensor::new(self.pass.alloc(meta.bytes())?, meta))
    }

    fn issue(&mut self, op: Checked<'_>, scratch: Option<&mut Tensor>) -> Result<(), Error> {
        issue(self.kernels, op, scratch)
    }

    fn with_layer(&mut self, layer: LayerId, f: &mut OnTile<'_>) -> Result<(), Error> {
        for tile in 0..self.pass.tiles(layer) {
            let lease = self.pass.lease(layer, tile)?;
            f(self, Some(&lease))?;
            lease.finish(self.kernels.ticket(Queue::Compute)?);
        }
        Ok(())
    }

    fn is_resident(&self, layer: LayerId) -> bool {
        self.pass.is_resident(layer) && self.pass.tiles(layer) == 1
    }

    fn gather(&mut self, layer: LayerId, index: usize, ids: &[u32], _: u64) -> Result<Option<Region>, Error> {
        self.pass.gather(layer, index, ids).map(Some)
    }
}

/// One of several forwards that take turns over one pass; its lock is never contended.
pub(crate) struct Joined<'p, 'e> {
    pub(crate) kernels: &'p dyn Kernels,
    pub(crate) pass: &'p Mutex<Pass<'e>>,
    pub(crate) seat: Seat<'p>,
}

impl Run for Joined<'_, '_> {
    fn is_dry(&self) -> bool {
        false
    }

    fn tensor(&mut self, meta: TensorMeta) -> Result<Tensor, Error> {
        Ok(Tensor::new(lock(self.pass).alloc(meta.bytes())?, meta))
    }

    fn issue(&mut self, op: Checked<'_>, scratch: Option<&mut Tensor>) -> Result<(), Error> {
        issue(self.kernels, op, scratch)
    }

    fn with_layer(&mut self, layer: LayerId, f: &mut OnTile<'_>) -> Result<(), Error> {
        let Joined { kernels, pass, seat } = *self;
        seat.meet(layer)?;
        let tiles = lock(pass).tiles(layer);
        for tile in 0..tiles {
            let lease = || lock(pass).lease(layer, tile);
            let done = || Ok(kernels.ticket(Queue::Compute)?);
            seat.share(lease, |lease| f(self, Some(lease)), done)?;
        }
        Ok(())
    }

    fn is_resident(&self, layer: LayerId) -> bool {
        let pass = lock(self.pass);
        pass.is_resident(layer) && pass.tiles(layer) == 1
    }

    fn gather(&mut self, layer: LayerId, index: usize, ids: &[u32], _: u64) -> Result<Option<Region>, Error> {
        self.seat.meet(layer)?;
        lock(self.pass).gather(layer, index, ids).map(Some)
    }
}

fn issue(kernels: &dyn Kernels, op: Checked<'_>, scratch: Option<&mut Tensor>) -> Result<(), Error> {
    kernels.takes(op.op())?;
    let mut scratch = scratch.map(Tensor::view_mut);
    Ok(kernels.run(op, scratch.as_mut())?)
}

fn lock<'a, 'e>(pass: &'a Mutex<Pass<'e>>) -> MutexGuard<'a, Pass<'e>> {
    // A forward that panics ends the whole run, and a pass may be dropped at any point.
    pass.lock().unwrap_or_else(PoisonError::into_inner)
}
