//! The readers' queue of jobs.

use std::collections::VecDeque;
use std::sync::Arc;

use vram_device::{DeviceError, Part, Region, Reservation, Staging};
use vram_types::{CancelToken, FileRange};

use super::context::Context;
use super::job::{Job, Place, Work};
use super::reads::{Read, pieces};
use super::rows::Rows;
use super::slot::{Brings, Memory, Slot};
use super::work::{Fill, FromHost, Prefault, ToHost};
use crate::error::Error;
use crate::plan::partition::Unit;
use crate::plan::partition::UnitId;

#[derive(Default)]
pub(super) struct Jobs {
    // Invariants:
    // 1. Each load has its own number, and its jobs carry that number.
    // 2. `busy` readers have taken a job and not booked it yet.
    // 3. Jobs carry the token that was in force when they were queued, so cancelled jobs stay cancelled.
    queue: VecDeque<Job>,
    busy: usize,
    cancel: CancelToken,
    last_load: u64,
    stopped: bool,
}

impl Jobs {
    /// Queues the reads that fill a region.
    pub(super) fn fill(&mut self, context: &Context, unit: &Unit, region: Region, place: Place) -> Slot {
        let load = self.new_load();
        let reads = pieces(unit, &context.layers, context.piece);
        let Some(count) = reads.len().checked_sub(1) else {
            return Slot::loading(load, 0, Some(Memory::Region(region)), Brings::default());
        };
        let cuts: Vec<u64> = reads.iter().take(count).map(|read| read.own().end).collect();
        let parts = match region.into_parts(&cuts) {
            Ok(parts) => parts,
            Err(e) => return Slot::failed(e),
        };
        let (left, mut bytes) = (parts.len(), 0);
        for (part, read) in parts.into_iter().zip(reads) {
            bytes += read.bytes();
            self.push(place, load, unit, Work::Fill(Fill { part, read }));
        }
        Slot::loading(load, left, None, Brings { disk_bytes: bytes, device_bytes: bytes })
    }

    /// Queues prefaults of the windows of a map.
    pub(super) fn map(&mut self, context: &Context, unit: &Unit, permit: Region, place: Place) -> Slot {
        let load = self.new_load();
        let mut windows = Vec::with_capacity(unit.packing.extents.len());
        for extent in &unit.packing.extents {
            let range = FileRange { file: extent.file, offset: extent.offset, bytes: extent.bytes };
            match context.source.map(range) {
                Some(Ok(window)) => windows.push(window),
                Some(Err(e)) => return Slot::failed(e),
                None => {
                    let mixed = "the source maps some of its files and not others";
                    return Slot::failed(Error::Unsupported(mixed.into()));
                }
            }
        }
        for window in &windows {
            self.push(place, load, unit, Work::Prefault(Prefault(Arc::clone(window))));
        }
        let bytes = unit.packing.extents.iter().map(|e| e.bytes).sum();
        let left = windows.len();
        let memory = Memory::Mapped { windows, _permit: permit };
        Slot::loading(load, left, Some(memory), Brings { disk_bytes: bytes, device_bytes: bytes })
    }

    /// Queues the copy of a unit that is in host memory.
    pub(super) fn copy_from_host(
        &mut self,
        context: &Context,
        unit: &Unit,
        region: Region,
        place: Place,
        host: Arc<Staging>,
    ) -> Slot {
        let (reads, bytes) = reads(context, unit);
        match whole(region) {
            Ok(part) => {
                let load = self.new_load();
                self.push(place, load, unit, Work::FromHost(FromHost { part, reads, host }));
                Slot::loading(load, 1, None, Brings { disk_bytes: 0, device_bytes: bytes })
            }
            Err(e) => Slot::failed(e),
        }
    }

    /// Queues the reads of a unit into host memory, where it stays, and its copy to the device.
    pub(super) fn read_to_host(
        &mut self,
        context: &Context,
        (id, unit): (UnitId, &Unit),
        region: Region,
        place: Place,
        (room, coming): (Reservation, Arc<()>),
    ) -> Slot {
        let (reads, bytes) = reads(context, unit);
        match whole(region) {
            Ok(part) => {
                let load = self.new_load();
                let work = ToHost { unit: id, part, reads, room, _coming: coming };
                self.push(place, load, unit, Work::ToHost(work));
                Slot::loading(load, 1, None, Brings { disk_bytes: bytes, device_bytes: bytes })
            }
            Err(e) => Slot::failed(e),
        }
    }

    /// Queues rows ahead of everything else.
    pub(super) fn rows(&mut self, name: &Arc<str>, rows: Rows) {
        let (load, cancel) = (self.new_load(), self.cancel.clone());
        let (name, work) = (Arc::clone(name), Work::Rows(rows));
        self.queue.push_front(Job { place: Place::Stray, load, name, work, cancel });
    }

    /// Gives the next job to a reader, which is then busy.
    pub(super) fn take(&mut self) -> Option<Job> {
        let job = self.queue.pop_front()?;
        self.busy += 1;
        Some(job)
    }

    /// A reader has finished a job.
    pub(super) fn booked(&mut self) {
        self.busy -= 1;
    }

    /// Readers that are busy.
    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    /// Jobs that wait for a reader.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Drops the queued jobs of these loads.
    pub(super) fn forget(&mut self, loads: &[u64]) {
        self.queue.retain(|job| !loads.contains(&job.load));
    }

    /// Cancels reads in flight and drops queued jobs.
    pub(super) fn cancel(&mut self) {
        self.cancel.cancel();
        self.queue.clear();
    }

    /// Jobs queued from now on are not cancelled.
    pub(super) fn renew(&mut self) {
        self.cancel = CancelToken::new();
    }

    /// Tells the readers to end.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    fn new_load(&mut self) -> u64 {
        self.last_load += 1;
        self.last_load
    }

    fn push(&mut self, place: Place, load: u64, unit: &Unit, work: Work) {
        let (name, cancel) = (Arc::clone(&unit.name), self.cancel.clone());
        self.queue.push_back(Job { place, load, name, work, cancel });
    }
}

/// The reads of a unit, and their bytes.
fn reads(context: &Context, unit: &Unit) -> (Vec<Read>, u64) {
    let reads = pieces(unit, &context.layers, context.piece);
    let bytes = reads.iter().map(Read::bytes).sum();
    (reads, bytes)
}

fn whole(region: Region) -> Result<Part, Error> {
    let part = region.into_parts(&[]).map_err(|e: DeviceError| Error::from(e))?.pop();
    part.ok_or_else(|| Error::Model("a region without parts".into()))
}
