//! One pass over the model.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use vram_device::{Device, DeviceError, Queue, Region};
use vram_types::CancelToken;

use super::acquire::Acquired;
use super::admit::{Admitted, Measured};
use super::job::{Job, Place, Reply, Rows, Work};
use super::slot::Weights;
use super::{Claim, Engine, Lease};
use crate::guard::{Guard, guard};
use crate::observe::{Event, Span, StallCause};
use crate::plan::Planned;
use crate::report::{PassReport, Stall};
use crate::spec::LayerId;
use crate::sync::MutexGuard;
use crate::{Error, UnitId};

/// What a pass needs to be admitted.
#[derive(Clone, Debug, Default)]
pub struct PassRequest {
    /// Bytes of activations and scratch that it will hold at once, at the most.
    pub workspace: u64,
    /// Layers in the order in which the pass will use them, if that is known; else as in the pass before, and in the
    /// first pass as they were registered. A wrong order costs speed, never correctness; a layer that a given trace
    /// has not at all is refused where the plan left no room for it.
    pub trace: Option<Vec<LayerId>>,
    /// Whether nothing follows: then the readers do not run around the end of the pass into the next one.
    pub last: bool,
    /// Ends the pass early, with [`Error::Cancelled`] from the next lease.
    pub cancel: CancelToken,
}

/// A running pass. Weights come by [`lease`](Pass::lease), memory for activations by [`alloc`](Pass::alloc).
///
/// Dropping it without [`finish`](Pass::finish) abandons the pass: everything that it took is freed, and the engine
/// is ready for the next.
pub struct Pass<'e> {
    engine: &'e Engine,
    plan: Arc<Planned>,
    workspace: vram_device::Arena,
    cancel: CancelToken,
    started: Instant,
    stalls: Vec<(Arc<str>, StallCause, Span)>,
    disk_bytes: u64,
    device_bytes: u64,
    planned_bytes: u64,
    used: Vec<LayerId>,
    leases: u64,
    counted: Vec<bool>,
    /// The unit that is being computed with, its layer, and since when.
    computing: Option<(Arc<str>, LayerId, Instant)>,
    measured: Option<Measured>,
    ended: bool,
    _claim: Claim<'e>,
}

impl<'e> Pass<'e> {
    pub(super) fn begin(engine: &'e Engine, request: PassRequest) -> Result<Pass<'e>, Error> {
        let claim = engine.claim()?;
        let started = Instant::now();
        let passes = if request.last { 1 } else { 2 };
        let cancel = request.cancel.clone();
        let admitted = Pass::admit(engine, request)?;
        if let Some((pipeline, stage)) = engine.pipeline() {
            pipeline.count(stage);
        }
        let calibrating = engine.calibrating(&admitted);
        let fetch = engine.shared.lock();
        let (plan, counted) = (Arc::clone(&fetch.plan), fetch.counted());
        let planned_bytes = fetch.planned_bytes();
        drop(fetch);
        engine.shared.open_until(plan.trace.len() as u64 * passes);
        Ok(Pass {
            engine,
            workspace: admitted.workspace.clone(),
            cancel,
            started,
            stalls: Vec::with_capacity(plan.trace.len()),
            disk_bytes: 0,
            device_bytes: 0,
            planned_bytes,
            used: Vec::with_capacity(admitted.trace.len()),
            leases: 0,
            counted,
            computing: None,
            measured: calibrating.then(|| Measured { layers: vec![(0, 0); engine.layers()] }),
            plan,
            ended: false,
            _claim: claim,
        })
    }

    pub(super) fn preload(engine: &Engine, request: PassRequest) -> Result<(), Error> {
        let _claim = engine.claim()?;
        let admitted = Pass::admit(engine, request)?;
        engine.calibrating(&admitted);
        let positions = engine.shared.lock().plan.trace.len() as u64;
        engine.shared.open_until(positions);
        Ok(())
    }

    fn admit(engine: &'e Engine, request: PassRequest) -> Result<MutexGuard<'e, Admitted>, Error> {
        let mut admitted = engine.admitted();
        if !admitted.active {
            return Err(Error::Offloaded);
        }
        let guessed = request.trace.is_none();
        let trace = request.trace.unwrap_or_else(|| admitted.trace.clone());
        if let Some(bad) = trace.iter().find(|l| l.0 >= engine.layers()) {
            return Err(Error::Shape(format!("the trace names layer {}, of {}", bad.0, engine.layers())));
        }
        engine.admit(&mut admitted, request.workspace, trace, guessed)?;
        Ok(admitted)
    }

    /// How many tiles a layer's weights come in.
    pub fn tiles(&self, layer: LayerId) -> usize {
        self.plan.partition.tiles.get(layer.0).map_or(0, Vec::len)
    }

    /// Whether the weights of a layer are all kept on the device.
    pub fn is_resident(&self, layer: LayerId) -> bool {
        self.plan
            .partition
            .tiles
            .get(layer.0)
            .is_some_and(|tiles| tiles.iter().all(|t| self.plan.resident[t.unit.0]))
    }

    /// Waits until a tile of a layer is on the device and keeps it there until the lease ends.
    ///
    /// # Errors
    /// [`Error::Source`] if it could not be read, [`Error::Cancelled`], [`Error::Shape`] for a tile that is not.
    pub fn lease(&mut self, layer: LayerId, tile: usize) -> Result<Lease, Error> {
        self.check_cancelled()?;
        let found = self.plan.partition.tiles.get(layer.0).and_then(|t| t.get(tile)).copied();
        let Some(found) = found else {
            return Err(Error::Shape(format!("layer {} has no tile {tile}", layer.0)));
        };
        if tile == 0 {
            self.used.push(layer);
        }
        self.computed()?;
        let name = &self.plan.partition.units[found.unit.0].name;
        let Acquired { weights, stall, again } = self.engine.shared.acquire(found.unit)?;
        // From here on, so that an error gives back what was acquired.
        let (shared, plan) = (Arc::clone(&self.engine.shared), Arc::clone(&self.plan));
        let lease = Lease::new(shared, plan, found, Arc::clone(&weights));
        if let Some((span, cause)) = stall {
            self.engine.shared.tell(&Event::Stalled { unit: name, cause, span });
            self.stalls.push((Arc::clone(name), cause, span));
        }
        if let Some(ticket) = weights.uploaded
            && guard(Guard::KernelAfterCopy)
        {
            self.engine.shared.device.order(Queue::Compute, ticket)?;
        }
        self.leases += 1;
        self.engine.shared.tell(&Event::Progress { done: self.leases, total: self.plan.trace.len() as u64 });
        self.computing = Some((Arc::clone(name), layer, Instant::now()));
        if let (Some(measured), 0) = (&mut self.measured, tile) {
            measured.layers[layer.0].1 += 1;
        }
        if !again {
            self.count(found.unit, &weights);
        }
        Ok(lease)
    }

    /// What was computed with the last lease is done, or on its way.
    fn computed(&mut self) -> Result<(), Error> {
        let Some((unit, layer, since)) = self.computing.take() else { return Ok(()) };
        if let Some(measured) = &mut self.measured {
            let device = &self.engine.shared.device;
            if !device.info().topology.host_visible {
                // Only to know how long the kernels take, in the passes that are measured.
                device.wait(device.ticket(Queue::Compute)?)?;
            }
            measured.layers[layer.0].0 += u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        self.engine.shared.tell(&Event::Computed { unit: &unit, span: Span::since(since) });
        Ok(())
    }

    /// Reads rows of a tensor of a layer, one after the other, without the rest of it. The bytes are those of the
    /// storage dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor or row that is not, [`Error::Source`] if they could not be read, and an error
    /// that [`is_oom`](Error::is_oom) if the workspace has no room for them.
    pub fn gather(&mut self, layer: LayerId, tensor: usize, ids: &[u32]) -> Result<Region, Error> {
        self.check_cancelled()?;
        let shared = &self.engine.shared;
        let found = shared.layers.get(layer.0).and_then(|l| l.tensors.get(tensor));
        let found = found.ok_or_else(|| {
            Error::Shape(format!("layer {} has no tensor {tensor} to gather from", layer.0))
        })?;
        let rows = found.located.meta.shape().first().copied().unwrap_or(0);
        if let Some(bad) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::Shape(format!("tensor {:?} has {rows} rows and no row {bad}", found.name)));
        }
        let row_bytes = found.located.meta.row_bytes().unwrap_or(0);
        let bytes = row_bytes * ids.len() as u64;
        let reply = Arc::new(Reply::default());
        let region = self.alloc(bytes)?;
        after_kernels(&*shared.device)?;
        let part = region.into_parts(&[])?.pop();
        let part = part.ok_or_else(|| Error::Shape("no rows".into()))?;
        let name = Arc::clone(&shared.layers[layer.0].name);
        let rows = Rows {
            part,
            tensor: found.name.clone(),
            row_bytes,
            ids: ids.to_vec(),
            reply: Arc::clone(&reply),
        };
        let since = Instant::now();
        let mut f = shared.lock();
        let (load, cancel) = (f.new_load(), f.cancel_token());
        let work = Work::Rows(rows);
        f.jobs.push_front(Job { place: Place::Stray, load, name: Arc::clone(&name), work, cancel });
        shared.work.notify_one();
        let result = loop {
            if let Some(result) = reply.take() {
                break result;
            }
            f = shared.ready.wait(f).unwrap_or_else(PoisonError::into_inner);
        };
        drop(f);
        let (span, cause) = (Span::since(since), StallCause::Gather);
        shared.tell(&Event::Stalled { unit: &name, cause, span });
        self.stalls.push((name, cause, span));
        self.disk_bytes += bytes;
        self.device_bytes += bytes;
        let (region, uploaded) = result?;
        if let Some(ticket) = uploaded
            && guard(Guard::KernelAfterGather)
        {
            shared.device.order(Queue::Compute, ticket)?;
        }
        Ok(region)
    }

    /// Memory for an activation or for scratch, out of the workspace that was declared.
    ///
    /// # Errors
    /// [`Error::Device`] if the pass declared less than it uses.
    pub fn alloc(&self, bytes: u64) -> Result<Region, Error> {
        self.workspace.alloc(bytes, ALIGN).ok_or_else(|| {
            DeviceError::OutOfMemory {
                bytes,
                reason: format!("the pass declared a workspace of {} bytes", self.plan.data.workspace_bytes),
            }
            .into()
        })
    }

    /// The device.
    pub fn device(&self) -> &dyn vram_device::Device {
        &*self.engine.shared.device
    }

    /// Ends the pass and says what it did.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed meanwhile.
    pub fn finish(mut self) -> Result<PassReport, Error> {
        self.ended = true;
        self.engine.shared.end_pass()?;
        let device = self.device();
        if guard(Guard::PassWait) {
            device.wait(device.ticket(Queue::Compute)?)?;
        }
        let span = Span::since(self.started);
        self.computed()?;
        self.engine.shared.tell(&Event::Passed { span });
        let mut admitted = self.engine.admitted();
        if admitted.trace != self.used && !self.used.is_empty() {
            tracing::debug!("the order of this pass is the trace from now on");
            admitted.trace.clone_from(&self.used);
        }
        let planned = (self.plan.data.pass_seconds, self.plan.data.bound_seconds);
        let (predicted_seconds, bound_seconds) = admitted.forecast.unwrap_or(planned);
        if let Some(measured) = self.measured.take() {
            self.engine.learn(&mut admitted, &measured)?;
        }
        // Not `sum`, which makes -0.0 of nothing.
        let stall_seconds = self.stalls.iter().fold(0.0, |sum, (_, _, span)| sum + span.seconds());
        let stalls = self.stalls.drain(..);
        let stall = |(unit, cause, span): (Arc<str>, StallCause, Span)| Stall {
            unit: unit.to_string(),
            cause,
            seconds: span.seconds(),
        };
        Ok(PassReport {
            seconds: span.seconds(),
            compute_seconds: (span.seconds() - stall_seconds).max(0.0),
            stall_seconds,
            disk_bytes: self.disk_bytes,
            device_bytes: self.device_bytes,
            planned_bytes: self.planned_bytes,
            predicted_seconds,
            bound_seconds,
            stalls: stalls.map(stall).collect(),
            evictions: std::mem::take(&mut admitted.evictions),
        })
    }

    /// Bytes are of the pass that uses them first, whichever pass they were read in.
    fn count(&mut self, unit: UnitId, weights: &Weights) {
        let resident = self.plan.resident[unit.0];
        if resident && std::mem::replace(&mut self.counted[unit.0], true) {
            return;
        }
        if resident {
            self.engine.shared.lock().mark_counted(unit);
        }
        self.disk_bytes += weights.disk_bytes;
        self.device_bytes += weights.device_bytes;
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Lets what is written next into the workspace come after all kernels so far: activations give their memory back
/// without a ticket, so that a kernel may still use what was there before.
pub(crate) fn after_kernels(device: &dyn Device) -> Result<(), DeviceError> {
    if !guard(Guard::WorkspaceAfterKernels) {
        return Ok(());
    }
    let issued = device.ticket(Queue::Compute)?;
    if device.info().topology.host_visible { device.wait(issued) } else { device.order(Queue::Copy, issued) }
}

/// Alignment of activations in bytes: a cache line, and what BLAS libraries ask for.
pub(crate) const ALIGN: u64 = 256;

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // What the device says here has been said to the caller already, or will be at the next pass.
            let _ = self.engine.shared.end_pass();
        }
    }
}

impl std::fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("leases", &self.used.len()).finish_non_exhaustive()
    }
}
