//! One pass over the model.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use vram_device::{Queue, Region};
use vram_types::CancelToken;

use super::fetch::Acquired;
use super::job::{Job, Place, Reply, Rows, Work};
use super::slot::Weights;
use super::{Claim, Engine, Lease};
use crate::plan::Plan;
use crate::report::PassReport;
use crate::spec::LayerId;
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
    plan: Arc<Plan>,
    workspace: vram_device::Arena,
    cancel: CancelToken,
    started: Instant,
    stall: Duration,
    disk_bytes: u64,
    device_bytes: u64,
    used: Vec<LayerId>,
    counted: Vec<bool>,
    ended: bool,
    _claim: Claim<'e>,
}

impl<'e> Pass<'e> {
    pub(super) fn begin(engine: &'e Engine, request: PassRequest) -> Result<Pass<'e>, Error> {
        let claim = engine.claim()?;
        let mut admitted = engine.admitted();
        if !admitted.active {
            return Err(Error::Offloaded);
        }
        let guessed = request.trace.is_none();
        let trace = request.trace.unwrap_or_else(|| admitted.trace.clone());
        if let Some(bad) = trace.iter().find(|l| l.0 >= engine.layers()) {
            return Err(Error::Shape(format!("the trace names layer {}, of {}", bad.0, engine.layers())));
        }
        let started = Instant::now();
        engine.admit(&mut admitted, request.workspace, trace, guessed)?;
        let plan = engine.plan();
        let passes = if request.last { 1 } else { 2 };
        engine.shared.open_until(plan.trace.len() as u64 * passes);
        Ok(Pass {
            engine,
            workspace: admitted.workspace.clone(),
            cancel: request.cancel,
            started,
            stall: Duration::ZERO,
            disk_bytes: 0,
            device_bytes: 0,
            used: Vec::with_capacity(admitted.trace.len()),
            counted: engine.shared.lock().counted(),
            plan,
            ended: false,
            _claim: claim,
        })
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
        let Acquired { weights, stall, again } = self.engine.shared.acquire(found.unit)?;
        self.stall += stall;
        if let Some(ticket) = weights.uploaded {
            self.engine.shared.device.order(Queue::Compute, ticket)?;
        }
        if !again {
            self.count(found.unit, &weights);
        }
        Ok(Lease::new(Arc::clone(&self.engine.shared), Arc::clone(&self.plan), found, weights))
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
        let part = region.into_parts(&[])?.pop();
        let part = part.ok_or_else(|| Error::Shape("no rows".into()))?;
        let rows =
            Rows { part, name: found.name.clone(), row_bytes, ids: ids.to_vec(), reply: Arc::clone(&reply) };
        let since = Instant::now();
        let mut f = shared.lock();
        let (load, cancel) = (f.new_load(), f.cancel_token());
        f.jobs.push_front(Job { place: Place::Stray, load, work: Work::Rows(rows), cancel });
        shared.work.notify_one();
        let result = loop {
            if let Some(result) = reply.take() {
                break result;
            }
            f = shared.ready.wait(f).unwrap_or_else(PoisonError::into_inner);
        };
        drop(f);
        self.stall += since.elapsed();
        self.disk_bytes += bytes;
        self.device_bytes += bytes;
        let (region, uploaded) = result?;
        if let Some(ticket) = uploaded {
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
            vram_device::DeviceError::OutOfMemory {
                bytes,
                reason: format!("the pass declared a workspace of {} bytes", self.plan.workspace),
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
        device.wait(device.ticket(Queue::Compute)?)?;
        let mut admitted = self.engine.admitted();
        if admitted.trace != self.used && !self.used.is_empty() {
            tracing::debug!("the order of this pass is the trace from now on");
            admitted.trace.clone_from(&self.used);
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let stall_seconds = self.stall.as_secs_f64();
        Ok(PassReport {
            seconds,
            compute_seconds: (seconds - stall_seconds).max(0.0),
            stall_seconds,
            disk_bytes: self.disk_bytes,
            device_bytes: self.device_bytes,
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
        self.device_bytes += weights.disk_bytes;
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
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
