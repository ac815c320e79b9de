//! The weights of one unit on their way to the device, and there.

use std::sync::Arc;

use vram_device::{Region, Ticket};
use vram_types::HostBytes;

use super::job::Fetched;
use crate::Error;
use crate::guard::{Guard, guard};

/// The weights of one unit, on the device.
pub(crate) struct Weights {
    pub(crate) memory: Memory,
    /// Bytes that were read from the source for them.
    pub(crate) disk_bytes: u64,
    /// Bytes that were put on the device.
    pub(crate) device_bytes: u64,
    /// The last copy that brought them, if copies were needed.
    pub(crate) uploaded: Option<Ticket>,
}

pub(crate) enum Memory {
    /// A slot of the ring or a place of its own.
    Region(Region),
    /// Windows of a memory map, one for each extent, and the share of the read-ahead that they take.
    Mapped { windows: Vec<Arc<dyn HostBytes>>, _permit: Region },
    /// Given back.
    Gone,
}

impl Weights {
    /// Gives the memory back; kernels up to `done` may still read it.
    fn retire(mut self, done: Ticket) {
        if let Memory::Region(region) = std::mem::replace(&mut self.memory, Memory::Gone) {
            region.retire(done);
        }
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        // Never used, so that the copy that brought them may still be under way.
        if let (Memory::Region(_), Some(uploaded)) = (&self.memory, self.uploaded)
            && let Memory::Region(region) = std::mem::replace(&mut self.memory, Memory::Gone)
        {
            region.retire(uploaded);
        }
    }
}

/// What a place of weights holds: a load in progress, its outcome, or its failure.
#[cfg_attr(feature = "shuttle", allow(clippy::large_enum_variant))] // locks of shuttle are large
pub(super) enum Slot {
    Loading {
        load: u64,
        left: usize,
        memory: Option<Memory>,
        disk_bytes: u64,
        device_bytes: u64,
        uploaded: Option<Ticket>,
    },
    Ready(Arc<Weights>),
    Failed(Error),
}

impl Slot {
    /// `left` jobs to come, which bring so many bytes from disk and to the device.
    pub(super) fn loading(
        load: u64,
        left: usize,
        memory: Option<Memory>,
        (disk_bytes, device_bytes): (u64, u64),
    ) -> Slot {
        let mut slot = Slot::Loading { load, left, memory, disk_bytes, device_bytes, uploaded: None };
        slot.settle();
        slot
    }

    pub(super) fn loading_id(&self) -> Option<u64> {
        match self {
            Slot::Loading { load, .. } => Some(*load),
            Slot::Ready(_) | Slot::Failed(_) => None,
        }
    }

    pub(super) fn is_load(&self, id: u64) -> bool {
        self.loading_id() == Some(id)
    }

    pub(super) fn advance(&mut self, result: Result<Fetched, Error>) {
        let Slot::Loading { left, memory, uploaded, .. } = self else { return };
        match result {
            Err(e) => *self = Slot::Failed(e),
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
        if let Slot::Loading { left: 0, memory, disk_bytes, device_bytes, uploaded, .. } = self {
            *self = match memory.take() {
                Some(memory) => Slot::Ready(Arc::new(Weights {
                    memory,
                    disk_bytes: *disk_bytes,
                    device_bytes: *device_bytes,
                    uploaded: *uploaded,
                })),
                None => Slot::Failed(Error::Model("a load ended without its memory".into())),
            };
        }
    }
}

/// Gives a slot back; kernels up to `done` may still read it.
pub(super) fn retire(weights: Arc<Weights>, done: Ticket) {
    if let Some(weights) = Arc::into_inner(weights)
        && guard(Guard::TicketOfLease)
    {
        weights.retire(done);
    }
}
