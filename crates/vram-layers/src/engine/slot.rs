//! The weights of one unit, loading or on the device.

use std::mem;
use std::sync::Arc;

use vram_device::{Region, Staging, Ticket};
use vram_types::HostBytes;

use crate::error::Error;
use crate::plan::partition::UnitId;

/// The weights of one unit, on the device.
pub(crate) struct Weights {
    memory: Memory,
    disk_bytes: u64,
    device_bytes: u64,
    uploaded: Option<Ticket>,
}

pub(crate) enum Memory {
    /// A slot of the ring, or a resident's own memory.
    Region(Region),
    /// Windows of a memory map, one for each extent, and their share of the read-ahead.
    Mapped { windows: Vec<Arc<dyn HostBytes>>, _permit: Region },
    /// Given back.
    Gone,
}

impl Weights {
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Bytes read from the source for them.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Bytes put on the device.
    pub(super) fn device_bytes(&self) -> u64 {
        self.device_bytes
    }

    /// The last copy that loaded them, if copies were needed.
    pub(super) fn uploaded(&self) -> Option<Ticket> {
        self.uploaded
    }

    /// Gives the memory back; kernels up to `done` may still read it.
    pub(super) fn retire(mut self, done: Ticket) {
        self.give_back(done);
    }

    fn give_back(&mut self, used_until: Ticket) {
        if let Memory::Region(region) = mem::replace(&mut self.memory, Memory::Gone) {
            region.retire(used_until);
        }
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        // It was never used, so the copy may still be in flight.
        if let (Memory::Region(_), Some(uploaded)) = (&self.memory, self.uploaded) {
            self.give_back(uploaded);
        }
    }
}

/// The result of a job.
#[derive(Default)]
pub(super) struct Fetched {
    /// The region, if the job was the last of its load.
    pub(super) region: Option<Region>,
    /// The copy to wait for.
    pub(super) uploaded: Option<Ticket>,
    /// A unit that is in host memory from now on.
    pub(super) to_host: Option<(UnitId, Staging)>,
}

impl Fetched {
    /// Gives back what is no longer needed. A copy in flight still writes the region, so it is retired with
    /// its ticket.
    pub(super) fn discard(self) {
        if let (Some(region), Some(ticket)) = (self.region, self.uploaded) {
            region.retire(ticket);
        }
    }
}

/// The state of a unit's weights: a load in progress, its outcome, or its failure.
pub(super) struct Slot(Progress);

#[cfg_attr(feature = "shuttle", allow(clippy::large_enum_variant))] // locks of shuttle are large
enum Progress {
    // Invariant: `left` jobs of this load are queued or taken by readers.
    Loading { load: u64, left: usize, memory: Option<Memory>, brings: Brings, uploaded: Option<Ticket> },
    Ready(Arc<Weights>),
    Failed(Error),
}

/// How many bytes a load reads from disk and puts on the device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brings {
    pub(super) disk_bytes: u64,
    pub(super) device_bytes: u64,
}

/// A slot as seen from outside.
pub(super) enum Seen<'a> {
    Loading { from_disk: bool },
    Ready(&'a Arc<Weights>),
    Failed,
}

impl Slot {
    /// A load with `left` jobs to come.
    pub(super) fn loading(load: u64, left: usize, memory: Option<Memory>, brings: Brings) -> Slot {
        let mut slot = Slot(Progress::Loading { load, left, memory, brings, uploaded: None });
        slot.settle();
        slot
    }

    pub(super) fn ready(weights: Arc<Weights>) -> Slot {
        Slot(Progress::Ready(weights))
    }

    pub(super) fn failed(error: impl Into<Error>) -> Slot {
        Slot(Progress::Failed(error.into()))
    }

    pub(super) fn look(&self) -> Seen<'_> {
        match &self.0 {
            Progress::Loading { brings, .. } => Seen::Loading { from_disk: brings.disk_bytes > 0 },
            Progress::Ready(weights) => Seen::Ready(weights),
            Progress::Failed(_) => Seen::Failed,
        }
    }

    /// The load in progress.
    pub(super) fn load(&self) -> Option<u64> {
        match &self.0 {
            Progress::Loading { load, .. } => Some(*load),
            Progress::Ready(_) | Progress::Failed(_) => None,
        }
    }

    pub(super) fn is_load(&self, id: u64) -> bool {
        self.load() == Some(id)
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.0, Progress::Ready(_))
    }

    pub(super) fn into_ready(self) -> Option<Arc<Weights>> {
        match self.0 {
            Progress::Ready(weights) => Some(weights),
            Progress::Loading { .. } | Progress::Failed(_) => None,
        }
    }

    pub(super) fn into_failure(self) -> Option<Error> {
        match self.0 {
            Progress::Failed(e) => Some(e),
            Progress::Loading { .. } | Progress::Ready(_) => None,
        }
    }

    /// Books the result of one job of the load.
    pub(super) fn advance(&mut self, result: Result<Fetched, Error>) {
        let Progress::Loading { left, memory, uploaded, .. } = &mut self.0 else { return };
        match result {
            Err(e) => self.0 = Progress::Failed(e),
            Ok(fetched) => {
                *left -= 1;
                *uploaded = (*uploaded).max(fetched.uploaded);
                if let Some(region) = fetched.region {
                    *memory = Some(Memory::Region(region));
                }
                self.settle();
            }
        }
    }

    fn settle(&mut self) {
        if let Progress::Loading { left: 0, memory, brings, uploaded, .. } = &mut self.0 {
            let (uploaded, Brings { disk_bytes, device_bytes }) = (*uploaded, *brings);
            self.0 = match memory.take() {
                Some(memory) => {
                    Progress::Ready(Arc::new(Weights { memory, disk_bytes, device_bytes, uploaded }))
                }
                None => Progress::Failed(Error::Model("a load ended without its memory".into())),
            };
        }
    }
}
