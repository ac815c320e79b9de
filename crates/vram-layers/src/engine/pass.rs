//! One pass over the model.

use std::sync::Arc;
use std::time::Instant;

use vram_device::{DeviceError, Execution, Queue, Region};
use vram_types::CancelToken;

use super::admission::{Admission, Claim, Grant, Verdict};
use super::arena::ALIGN;
use super::calibration::Measured;
use super::context::Context;
use super::guard::{end_after_kernels, kernels_after_rows, kernels_after_weights, workspace_after_kernels};
use super::lease::Lease;
use super::request::PassRequest;
use super::rows::{Rows, Table};
use super::shared::{Acquired, Shared};
use crate::error::Error;
use crate::observe::event::{Event, Span, StallCause};
use crate::observe::report::{PassReport, Stall};
use crate::plan::compose::Planned;
use crate::plan::partition::UnitId;
use crate::spec::LayerId;

/// A running pass. [`lease`](Pass::lease) gives weights, [`alloc`](Pass::alloc) memory for activations.
///
/// Dropping it without [`finish`](Pass::finish) abandons the pass: everything it took is freed, and the
/// engine is ready for the next.
pub struct Pass<'e> {
    admission: &'e Admission,
    plan: Arc<Planned>,
    workspace: vram_device::Arena,
    cancel: CancelToken,
    started: Instant,
    stalls: Vec<(Arc<str>, StallCause, Span)>,
    disk_bytes: u64,
    device_bytes: u64,
    planned_bytes: u64,
    used: Vec<LayerId>,
    /// How many entries of the plan's trace have begun.
    begun: usize,
    /// The unit in use, its layer, and since when.
    computing: Option<(Arc<str>, LayerId, Instant)>,
    measured: Option<Measured>,
    ended: bool,
    _claim: Claim<'e>,
}

impl<'e> Pass<'e> {
    pub(super) fn begin(admission: &'e Admission, request: PassRequest) -> Result<Pass<'e>, Error> {
        let (started, cancel) = (Instant::now(), request.cancel.clone());
        let Grant { claim, plan, workspace, planned_bytes, uses, measured } = admission.begin(request)?;
        Ok(Pass {
            admission,
            workspace,
            cancel,
            started,
            stalls: Vec::with_capacity(plan.trace.len()),
            disk_bytes: 0,
            device_bytes: 0,
            planned_bytes,
            used: Vec::with_capacity(uses),
            begun: 0,
            computing: None,
            measured,
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
            .is_some_and(|tiles| tiles.iter().all(|t| self.plan.is_resident(t.unit)))
    }

    /// Waits until a tile of a layer is on the device and keeps it there until the lease ends.
    ///
    /// # Errors
    /// [`Error::Source`] if it could not be read, [`Error::Cancelled`], [`Error::Shape`] for a tile that does
    /// not exist.
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
        let name = Arc::clone(&self.plan.partition.units[found.unit.0].name);
        let Acquired { weights, stall, first } = self.shared().acquire(found.unit)?;
        // From here on, an error must give back what was acquired.
        let (shared, plan) = (Arc::clone(self.shared()), Arc::clone(&self.plan));
        let lease = Lease::new(shared, plan, found, Arc::clone(&weights));
        if let Some((span, cause)) = stall {
            self.context().tell(&Event::Stalled { unit: &name, cause, span });
            self.stalls.push((Arc::clone(&name), cause, span));
        }
        kernels_after_weights(self.device(), weights.uploaded())?;
        let began = self.begin_unit(found.unit);
        self.computing = Some((name, layer, Instant::now()));
        if began {
            let (done, total) = (self.begun as u64, self.plan.trace.len() as u64);
            self.context().tell(&Event::Progress { done, total });
        }
        if let (Some(measured), 0) = (&mut self.measured, tile) {
            measured.count(layer.0);
        }
        if first {
            self.disk_bytes += weights.disk_bytes();
            self.device_bytes += weights.device_bytes();
        }
        Ok(lease)
    }

    /// Whether the pass moves on to another entry of the plan's trace. Layers that move together are one
    /// entry; what a forward uses beyond the trace is no entry.
    fn begin_unit(&mut self, unit: UnitId) -> bool {
        let trace = &self.plan.trace;
        if self.begun > 0 && trace[self.begun - 1] == unit {
            return false;
        }
        let ahead = trace[self.begun..].iter().position(|next| *next == unit);
        self.begun += ahead.map_or(0, |ahead| ahead + 1);
        ahead.is_some()
    }

    /// The computation with the last lease has finished or been issued.
    fn computed(&mut self) -> Result<(), Error> {
        let Some((unit, layer, since)) = self.computing.take() else { return Ok(()) };
        if let Some(measured) = &mut self.measured {
            let device = &self.admission.context().device;
            if device.info().topology.kernels == Execution::Queued {
                // Only to time the kernels, in passes that are measured.
                device.wait(device.ticket(Queue::Compute)?)?;
            }
            measured.add(layer.0, u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        self.context().tell(&Event::Computed { unit: &unit, span: Span::since(since) });
        Ok(())
    }

    /// Reads rows of a tensor of a layer, one after the other, without the rest of it. The bytes are in the
    /// storage dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor or row that does not exist, [`Error::Source`] if they could not be read,
    /// and an error that [`is_oom`](Error::is_oom) if the workspace has no room for them.
    pub fn gather(&mut self, layer: LayerId, tensor: usize, ids: &[u32]) -> Result<Region, Error> {
        self.check_cancelled()?;
        let context = self.context();
        let found = context.layers.get(layer.0).and_then(|l| l.tensors.get(tensor));
        let found = found.ok_or_else(|| {
            Error::Shape(format!("layer {} has no tensor {tensor} to gather from", layer.0))
        })?;
        let rows = found.meta.shape().first().copied().unwrap_or(0);
        if let Some(bad) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(Error::Shape(format!("tensor {:?} has {rows} rows and no row {bad}", found.name)));
        }
        let row_bytes = found.row_bytes().unwrap_or(0);
        let bytes = row_bytes * ids.len() as u64;
        let region = self.alloc(bytes)?;
        workspace_after_kernels(self.device())?;
        let part = region.into_parts(&[])?.pop();
        let part = part.ok_or_else(|| Error::Shape("no rows".into()))?;
        let name = Arc::clone(&context.layers[layer.0].name);
        let (table, ids, reply) = (Table::of(found), ids.to_vec(), Arc::default());
        let since = Instant::now();
        let answer = self.shared().read_rows(&name, Rows { part, table, row_bytes, ids, reply });
        let (span, cause) = (Span::since(since), StallCause::Gather);
        context.tell(&Event::Stalled { unit: &name, cause, span });
        self.stalls.push((name, cause, span));
        self.disk_bytes += bytes;
        self.device_bytes += bytes;
        let (region, uploaded) = answer?;
        kernels_after_rows(self.device(), uploaded)?;
        Ok(region)
    }

    /// Memory for an activation or for scratch, from the declared workspace.
    ///
    /// # Errors
    /// [`Error::Device`] if the workspace has no room for it.
    pub fn alloc(&self, bytes: u64) -> Result<Region, Error> {
        self.workspace.alloc(bytes, ALIGN).ok_or_else(|| {
            DeviceError::OutOfMemory {
                bytes,
                reason: format!(
                    "the pass was prepared for {} bytes of activations and scratch, and asks for more: a forward must \
                     do the same in its dry run as for real",
                    self.plan.data.workspace_bytes
                ),
            }
            .into()
        })
    }

    /// The device.
    pub fn device(&self) -> &dyn vram_device::Device {
        &*self.context().device
    }

    /// Ends the pass and returns its report.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed during the pass.
    pub fn finish(mut self) -> Result<PassReport, Error> {
        self.ended = true;
        self.shared().end_pass()?;
        end_after_kernels(self.device())?;
        let span = Span::since(self.started);
        self.computed()?;
        self.context().tell(&Event::Passed { span });
        let Verdict { predicted_seconds, bound_seconds, evictions } =
            self.admission.finish(&self.plan.data, &self.used, self.measured.as_ref())?;
        // Not `sum`, whose empty sum is -0.0.
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
            evictions,
        })
    }

    fn shared(&self) -> &'e Arc<Shared> {
        self.admission.shared()
    }

    fn context(&self) -> &'e Context {
        self.admission.context()
    }

    fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // The caller has already seen this error, or will at the next pass.
            let _ = self.shared().end_pass();
        }
    }
}

impl std::fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("leases", &self.used.len()).finish_non_exhaustive()
    }
}
