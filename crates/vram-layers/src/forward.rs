//! What a forward is written against: memory for activations, kernels, and the weights of one layer at a time.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vram_alloc::{ParamId, Parameter};
use vram_device::{
    Arena, Budget, Kernels, Lifetime, Queue, Region, ScratchFor, Staging, Ticket, View, ViewMut,
};
use vram_types::{DType, Shape, TensorMeta};

use crate::engine::{ALIGN, Lease, Pass, after_kernels};
use crate::guard::{Guard, guard};
use crate::joined::Seat;
use crate::spec::LayerId;
use crate::{Error, Split};

/// In what pieces inputs are copied to a device whose memory the host does not see, in bytes.
const INPUT_PIECE: usize = 1 << 20;

/// Where a parameter's bytes are: the `index`-th tensor of a layer of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) layer: LayerId,
    pub(crate) index: usize,
    pub(crate) split: Split,
    /// As it is stored.
    pub(crate) dtype: DType,
}

pub(crate) type Bindings = HashMap<ParamId, Binding>;

/// An activation: memory of the pass with a dtype and a shape.
#[derive(Debug)]
pub struct Tensor {
    region: Region,
    meta: TensorMeta,
}

impl Tensor {
    /// Dtype, shape and size.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        self.meta.shape()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.meta.dtype()
    }

    /// To read.
    ///
    /// # Errors
    /// Never for a tensor that a [`Forward`] made.
    pub fn view(&self) -> Result<View<'_>, Error> {
        Ok(View::new(&self.region, 0, self.meta.clone())?)
    }

    /// To write.
    ///
    /// # Errors
    /// Never for a tensor that a [`Forward`] made.
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>, Error> {
        Ok(ViewMut::new(&mut self.region, 0, self.meta.clone())?)
    }

    /// Some rows (steps of the outermost extent), to read.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no such rows.
    pub fn rows(&self, rows: Range<usize>) -> Result<View<'_>, Error> {
        let (at, meta) = self.row_range(rows)?;
        Ok(View::new(&self.region, at, meta)?)
    }

    /// Some rows (steps of the outermost extent), to write.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no such rows.
    pub fn rows_mut(&mut self, rows: Range<usize>) -> Result<ViewMut<'_>, Error> {
        let (at, meta) = self.row_range(rows)?;
        Ok(ViewMut::new(&mut self.region, at, meta)?)
    }

    fn row_range(&self, rows: Range<usize>) -> Result<(u64, TensorMeta), Error> {
        let (count, row_bytes) = (self.shape().first().copied(), self.meta.row_bytes());
        match (count, row_bytes) {
            (Some(count), Some(row_bytes)) if rows.start <= rows.end && rows.end <= count => {
                let meta = TensorMeta::new(self.dtype(), self.shape().with_first(rows.len()))?;
                Ok((rows.start as u64 * row_bytes, meta))
            }
            _ => Err(Error::Shape(format!("a tensor of shape {} has no rows {rows:?}", self.shape()))),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has another number of elements.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Tensor, Error> {
        let meta = TensorMeta::new(self.dtype(), shape)?;
        if meta.bytes() != self.meta.bytes() {
            return Err(Error::Shape(format!("{} cannot take the shape {}", self.shape(), meta.shape())));
        }
        Ok(Tensor { region: self.region, meta })
    }
}

/// A forward in progress, for real or as a *dry run*: the same code without bytes, which finds out how much memory
/// the activations take and in which order the layers come.
pub struct Forward<'p, 'e> {
    mode: Mode<'p, 'e>,
    kernels: &'p dyn Kernels,
    dtype: DType,
    bindings: &'p Bindings,
    host_budget: &'p Budget,
    /// Its place among passes that are run together.
    seat: Option<Seat<'p>>,
}

/// What a forward needs, found by running it dry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needs {
    /// Bytes of activations and scratch.
    pub(crate) workspace: u64,
    /// Layers in order of use.
    pub(crate) trace: Vec<LayerId>,
    /// Floating-point operations, as declared.
    pub(crate) flops: Vec<(LayerId, u64)>,
}

enum Mode<'p, 'e> {
    Dry {
        arena: Arena,
        trace: Vec<LayerId>,
        flops: Vec<(LayerId, u64)>,
    },
    Real(&'p mut Pass<'e>),
    /// One of several that take turns; the lock is never contended.
    Joined(&'p Mutex<Pass<'e>>),
}

impl<'p, 'e> Forward<'p, 'e> {
    pub(crate) fn dry(
        kernels: &'p dyn Kernels,
        dtype: DType,
        bindings: &'p Bindings,
        host_budget: &'p Budget,
    ) -> Forward<'p, 'e> {
        let arena = Arena::measuring_within(kernels.info().max_allocation);
        Forward::dry_in(arena, None, kernels, dtype, bindings, host_budget)
    }

    /// A dry run in an arena that others measure in as well.
    pub(crate) fn dry_in(
        arena: Arena,
        seat: Option<Seat<'p>>,
        kernels: &'p dyn Kernels,
        dtype: DType,
        bindings: &'p Bindings,
        host_budget: &'p Budget,
    ) -> Forward<'p, 'e> {
        let mode = Mode::Dry { arena, trace: Vec::new(), flops: Vec::new() };
        Forward { mode, kernels, dtype, bindings, host_budget, seat }
    }

    /// One of several forwards over one pass.
    pub(crate) fn joined(
        pass: &'p Mutex<Pass<'e>>,
        seat: Seat<'p>,
        kernels: &'p dyn Kernels,
        dtype: DType,
        bindings: &'p Bindings,
        host_budget: &'p Budget,
    ) -> Forward<'p, 'e> {
        Forward { mode: Mode::Joined(pass), kernels, dtype, bindings, host_budget, seat: Some(seat) }
    }

    pub(crate) fn real(
        pass: &'p mut Pass<'e>,
        kernels: &'p dyn Kernels,
        dtype: DType,
        bindings: &'p Bindings,
        host_budget: &'p Budget,
    ) -> Forward<'p, 'e> {
        Forward { mode: Mode::Real(pass), kernels, dtype, bindings, host_budget, seat: None }
    }

    /// What a dry run found.
    pub(crate) fn measured(self) -> Needs {
        match self.mode {
            Mode::Dry { arena, trace, flops } => Needs { workspace: arena.high_water(), trace, flops },
            Mode::Real(_) | Mode::Joined(_) => Needs::default(),
        }
    }

    /// Declares floating-point operations of kernels that follow the layer used last, so that a plan can reckon with
    /// devices that are not here. Layers of this crate declare their own.
    pub fn declare_flops(&mut self, flops: u64) {
        if let Mode::Dry { trace, flops: all, .. } = &mut self.mode
            && let Some(&layer) = trace.last()
        {
            all.push((layer, flops));
        }
    }

    /// The compute dtype: of all activations unless said otherwise.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether this is the dry run: shapes are real, bytes are not.
    pub fn is_dry(&self) -> bool {
        matches!(self.mode, Mode::Dry { .. })
    }

    /// Memory for an activation in the compute dtype; its contents are unspecified.
    ///
    /// # Errors
    /// [`Error::Device`] if the pass takes more memory than its dry run did.
    pub fn tensor(&mut self, shape: impl Into<Shape>) -> Result<Tensor, Error> {
        let meta = TensorMeta::new(self.dtype, shape)?;
        self.tensor_of(meta)
    }

    /// Memory for an activation of any dtype; its contents are unspecified.
    ///
    /// # Errors
    /// As [`tensor`](Forward::tensor).
    pub fn tensor_of(&mut self, meta: TensorMeta) -> Result<Tensor, Error> {
        let region = match &mut self.mode {
            Mode::Dry { arena, .. } => arena.alloc(meta.bytes(), ALIGN).ok_or_else(|| {
                let most = self.kernels.info().max_allocation;
                Error::Shape(format!(
                    "an activation of shape {} has {} bytes, and the device has at most {most} in one piece",
                    meta.shape(),
                    meta.bytes()
                ))
            })?,
            Mode::Real(pass) => pass.alloc(meta.bytes())?,
            Mode::Joined(pass) => lock(pass).alloc(meta.bytes())?,
        };
        Ok(Tensor { region, meta })
    }

    /// Scratch for a kernel.
    ///
    /// # Errors
    /// As [`tensor`](Forward::tensor).
    pub fn scratch(&mut self, kernel: ScratchFor<'_>) -> Result<Tensor, Error> {
        let bytes = usize::try_from(self.kernels.scratch_bytes(kernel))
            .map_err(|e| Error::Shape(format!("a kernel's scratch overflows: {e}")))?;
        self.tensor_of(TensorMeta::new(DType::U8, [bytes])?)
    }

    /// An input from host memory, cast to the compute dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] if `bytes` has not the length that `meta` says; as [`tensor`](Forward::tensor).
    pub fn input(&mut self, bytes: &[u8], meta: &TensorMeta) -> Result<Tensor, Error> {
        if bytes.len() as u64 != meta.bytes() {
            return Err(Error::Shape(format!(
                "an input of {} {} has {} bytes and not {}",
                meta.dtype(),
                meta.shape(),
                bytes.len(),
                meta.bytes()
            )));
        }
        let stored = self.tensor_of(meta.clone())?;
        let Tensor { mut region, meta } = stored;
        if !self.is_dry() {
            region = self.write(region, bytes)?;
        }
        let stored = Tensor { region, meta };
        if stored.dtype() == self.dtype {
            return Ok(stored);
        }
        let mut cast = self.tensor(stored.shape().clone())?;
        self.kernel(|k| Ok(k.cast(&stored.view()?, &mut cast.view_mut()?)?))?;
        Ok(cast)
    }

    fn write(&mut self, mut region: Region, bytes: &[u8]) -> Result<Region, Error> {
        let device = self.kernels;
        after_kernels(device)?;
        if device.info().topology.host_visible {
            if let Some(to) = region.host_mut() {
                to.copy_from_slice(bytes);
            }
            return Ok(region);
        }
        let part = region.into_parts(&[])?.pop();
        let mut part = part.ok_or_else(|| Error::Shape("an input without memory".into()))?;
        // One is filled while the other is copied. As little as that, since pinning memory takes longer than copying it; and both
        // before the first copy, so that where there is no room nothing is under way.
        let mut slots: Vec<(Staging, Option<Ticket>)> = Vec::with_capacity(2);
        for piece in bytes.chunks(INPUT_PIECE).take(2) {
            let room = self.host_budget.reserve(Lifetime::Pass, piece.len() as u64);
            slots.push((device.stage(room.map_err(vram_device::DeviceError::from)?)?, None));
        }
        for (i, piece) in bytes.chunks(INPUT_PIECE).enumerate() {
            let (staging, copied) = &mut slots[i % 2];
            if let Some(ticket) = copied.take()
                && guard(Guard::StagingWait)
            {
                device.wait(ticket)?;
            }
            staging.host_mut()[..piece.len()].copy_from_slice(piece);
            let ticket =
                device.upload(staging, 0..piece.len() as u64, &mut part, (i * INPUT_PIECE) as u64)?;
            part.issued(ticket);
            *copied = Some(ticket);
        }
        if guard(Guard::KernelAfterInput) {
            for ticket in slots.iter().filter_map(|(_, copied)| *copied) {
                device.order(Queue::Compute, ticket)?;
                device.wait(ticket)?;
            }
        }
        part.finish().ok_or_else(|| Error::Shape("an input without memory".into()))
    }

    /// The bytes of a tensor, in host memory. Zeros in a dry run.
    ///
    /// # Errors
    /// [`Error::Device`] if the device is lost.
    pub fn download(&mut self, tensor: &Tensor) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; tensor.meta.bytes() as usize];
        if !self.is_dry() {
            self.kernels.download(&tensor.region, 0, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Runs kernels that need no weights; does nothing in a dry run.
    ///
    /// # Errors
    /// Whatever `f` gives.
    pub fn kernel(&mut self, f: impl FnOnce(&dyn Kernels) -> Result<(), Error>) -> Result<(), Error> {
        if self.is_dry() { Ok(()) } else { f(self.kernels) }
    }

    /// Runs kernels with the weights that the layer of `parameter` has, once for each tile that they come in; in a
    /// dry run it only notes that the layer is used.
    ///
    /// # Errors
    /// Whatever `f` gives; [`Error::Model`] for a parameter that is not managed, and all that a lease can give.
    pub fn with_weights(
        &mut self,
        parameter: &Parameter,
        mut f: impl FnMut(&dyn Kernels, &Lease) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let layer = self.binding(parameter)?.layer;
        self.meet(layer)?;
        match &mut self.mode {
            Mode::Dry { trace, .. } => trace.push(layer),
            Mode::Real(pass) => {
                for tile in 0..pass.tiles(layer) {
                    let lease = pass.lease(layer, tile)?;
                    f(self.kernels, &lease)?;
                    lease.finish(self.kernels.ticket(Queue::Compute)?);
                }
            }
            Mode::Joined(pass) => {
                let seat = self.seat.as_ref().ok_or_else(no_seat)?;
                let tiles = lock(pass).tiles(layer);
                for tile in 0..tiles {
                    let lease = || lock(pass).lease(layer, tile);
                    let done = || Ok(self.kernels.ticket(Queue::Compute)?);
                    seat.share(lease, |lease| f(self.kernels, lease), done)?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the others of a joined run to come to the same layer.
    fn meet(&self, layer: LayerId) -> Result<(), Error> {
        self.seat.as_ref().map_or(Ok(()), |seat| seat.meet(layer))
    }

    /// Which tensor of its lease a parameter is.
    ///
    /// # Errors
    /// [`Error::Model`] for a parameter that is not managed.
    pub fn index(&self, parameter: &Parameter) -> Result<usize, Error> {
        Ok(self.binding(parameter)?.index)
    }

    /// Rows `ids` of a table, cast to the compute dtype: from the table if it is on the device, else these rows
    /// alone are read.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row that is not, [`Error::Source`] if they could not be read.
    pub fn gather(&mut self, table: &Parameter, ids: &[u32]) -> Result<Tensor, Error> {
        let Binding { layer, index, split, dtype } = self.binding(table)?;
        if split != Split::Gather {
            return Err(Error::Model(format!("layer {} is not one to gather from", layer.0)));
        }
        let shape = table.meta().shape().with_first(ids.len());
        let mut y = self.tensor(shape.clone())?;
        let there = |pass: &Pass<'_>| pass.is_resident(layer) && pass.tiles(layer) == 1;
        let resident = match &self.mode {
            Mode::Dry { .. } => false,
            Mode::Real(pass) => there(pass),
            Mode::Joined(pass) => there(&lock(pass)),
        };
        if resident {
            self.with_weights(table, |k, lease| {
                Ok(k.gather(&lease.tensor(index)?, ids, &mut y.view_mut()?)?)
            })?;
            return Ok(y);
        }
        self.meet(layer)?;
        let stored = TensorMeta::new(dtype, shape)?;
        match &mut self.mode {
            Mode::Dry { arena, .. } => drop(arena.alloc(stored.bytes(), ALIGN)),
            Mode::Real(pass) => {
                let rows = pass.gather(layer, index, ids)?;
                self.kernels.cast(&View::new(&rows, 0, stored)?, &mut y.view_mut()?)?;
            }
            Mode::Joined(pass) => {
                let rows = lock(pass).gather(layer, index, ids)?;
                self.kernels.cast(&View::new(&rows, 0, stored)?, &mut y.view_mut()?)?;
            }
        }
        Ok(y)
    }

    fn binding(&self, parameter: &Parameter) -> Result<Binding, Error> {
        self.bindings.get(&parameter.id()).copied().ok_or_else(|| {
            Error::Model(format!("a parameter of shape {} is not under management", parameter.meta().shape()))
        })
    }
}

fn lock<'a, 'e>(pass: &'a Mutex<Pass<'e>>) -> MutexGuard<'a, Pass<'e>> {
    // A forward that panics ends the whole run, and a pass may be dropped anywhere.
    pass.lock().unwrap_or_else(PoisonError::into_inner)
}

fn no_seat() -> Error {
    Error::Model("a joined forward without its seat".into())
}

impl std::fmt::Debug for Forward<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward").field("dtype", &self.dtype).field("dry", &self.is_dry()).finish()
    }
}
