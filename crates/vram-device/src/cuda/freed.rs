//! Memory that was given back and may still be in use.

use std::mem::ManuallyDrop;

use super::driver;
use crate::DeviceError;

/// Keeps caller-owned memory alive.
pub(super) type Owner = Box<dyn Send + Sync>;

/// Memory without an owner.
pub(super) enum Freed {
    /// Device memory.
    Device(u64),
    /// Caller-owned device memory: its owner, which is not dropped unless all work is known to have ended.
    Adopted(ManuallyDrop<Owner>),
    /// Pinned host memory.
    Pinned(*mut u8),
}

// SAFETY: the pointer is only freed, which any thread may do.
unsafe impl Send for Freed {}

impl Freed {
    pub(super) fn is_device(&self) -> bool {
        matches!(self, Freed::Device(_) | Freed::Adopted(_))
    }

    /// Frees it; for caller-owned memory, returns the owner to be dropped.
    ///
    /// # Safety
    /// The memory belongs to this backend, is freed only here, and nothing issued still uses it.
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
