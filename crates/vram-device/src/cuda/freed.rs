//! Memory that was given back and may still be in use.

use std::mem::ManuallyDrop;

use super::driver;
use crate::DeviceError;

/// Keeps memory of the caller's own.
pub(super) type Owner = Box<dyn Send + Sync>;

/// Memory that nobody holds any more.
pub(super) enum Freed {
    /// Of the card.
    Device(u64),
    /// Of the card and the caller's own: its owner, which is not dropped where nobody knows that all work has ended.
    Adopted(ManuallyDrop<Owner>),
    /// Of the host.
    Pinned(*mut u8),
}

// SAFETY: the pointer is only freed, on whichever thread.
unsafe impl Send for Freed {}

impl Freed {
    pub(super) fn is_device(&self) -> bool {
        matches!(self, Freed::Device(_) | Freed::Adopted(_))
    }

    /// Frees it; of memory that is not ours, gives its owner to be dropped.
    ///
    /// # Safety
    /// The memory is this backend's, is freed here alone, and nothing that was issued uses it any more.
    pub(super) unsafe fn now(self) -> Result<Option<Owner>, DeviceError> {
        match self {
            // SAFETY: the caller's promise.
            Freed::Device(pointer) => unsafe { driver::free(pointer) }.map(|()| None),
            Freed::Adopted(owner) => Ok(Some(ManuallyDrop::into_inner(owner))),
            // SAFETY: the caller's promise.
            Freed::Pinned(pointer) => unsafe { driver::free_pinned(pointer) }.map(|()| None),
        }
    }
}
