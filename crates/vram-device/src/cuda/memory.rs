//! Device memory, pinned staging, and what is read back.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use super::context::Context;
use super::driver;
use crate::{DeviceError, RawBuffer};

/// Keeps memory of the caller's own.
pub(super) type Owner = Box<dyn Send + Sync>;

/// An allocation on the card.
pub(super) struct DeviceMemory {
    pub(super) context: Arc<Context>,
    /// 0 where there are no bytes.
    pub(super) pointer: u64,
    bytes: u64,
    /// Of memory that is not ours to free.
    owner: Option<Owner>,
}

impl DeviceMemory {
    /// What was given back before and is still in use is waited for, or both would take memory at once.
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<DeviceMemory, DeviceError> {
        context.reclaim(true)?;
        let pointer = context.with(|| if bytes == 0 { Ok(0) } else { driver::allocate(bytes) })?;
        Ok(DeviceMemory { context: Arc::clone(context), pointer, bytes, owner: None })
    }

    /// Memory of the caller's own.
    ///
    /// # Safety
    /// It is device memory of this context, stays until `owner` is dropped, and is used as
    /// [`Cuda::adopt`](super::Cuda::adopt) demands.
    pub(super) unsafe fn theirs(
        context: &Arc<Context>,
        pointer: u64,
        bytes: u64,
        owner: Owner,
    ) -> DeviceMemory {
        DeviceMemory { context: Arc::clone(context), pointer, bytes, owner: Some(owner) }
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if let Some(owner) = self.owner.take() {
            self.context.free(Freed::Theirs(ManuallyDrop::new(owner)));
        } else if self.bytes > 0 {
            self.context.free(Freed::Device(self.pointer));
        }
    }
}

// SAFETY: the host does not see it, so that there is no pointer to promise anything of.
unsafe impl RawBuffer for DeviceMemory {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Page-locked memory of the host.
pub(super) struct Pinned {
    pub(super) context: Arc<Context>,
    pub(super) pointer: NonNull<u8>,
    bytes: u64,
}

// SAFETY: the pointer is to memory that any thread may use; `RawBuffer`'s contract says who does.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<Pinned, DeviceError> {
        context.reclaim(false)?;
        let pointer = context.with(|| pinned(bytes))?;
        Ok(Pinned { context: Arc::clone(context), pointer, bytes })
    }
}

/// Pinned bytes, zeroed; a pointer to nothing where there are none.
fn pinned(bytes: u64) -> Result<NonNull<u8>, DeviceError> {
    if bytes == 0 {
        return Ok(NonNull::dangling());
    }
    let pointer = driver::allocate_pinned(bytes)?;
    let what = "cuMemHostAlloc";
    let pointer = NonNull::new(pointer)
        .ok_or_else(|| DeviceError::Failed { what, reason: "it gave no pointer".into() })?;
    // SAFETY: so many bytes were just allocated. The driver does not say what they hold.
    unsafe { pointer.write_bytes(0, bytes as usize) };
    Ok(pointer)
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.context.free(Freed::Pinned(self.pointer.as_ptr()));
        }
    }
}

// SAFETY: the memory was zeroed, lies at the pointer until the buffer is dropped and longer (it is freed by `Context::free` alone),
// also after the device was lost, and nothing here reads or writes through the pointer but the card's copies, during which
// the contract of `upload` forbids the host to write.
unsafe impl RawBuffer for Pinned {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        Some(self.pointer)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Memory that nobody holds any more.
pub(super) enum Freed {
    /// Of the card.
    Device(u64),
    /// Of the card and the caller's own: its owner, which is not dropped where nobody knows that all work has ended.
    Theirs(ManuallyDrop<Owner>),
    /// Of the host.
    Pinned(*mut u8),
}

// SAFETY: the pointer is only freed, on whichever thread.
unsafe impl Send for Freed {}

impl Freed {
    pub(super) fn is_device(&self) -> bool {
        matches!(self, Freed::Device(_) | Freed::Theirs(_))
    }

    /// Frees it; of memory that is not ours, gives its owner to be dropped.
    ///
    /// # Safety
    /// The memory is this backend's, is freed here alone, and nothing that was issued uses it any more.
    pub(super) unsafe fn now(self) -> Result<Option<Owner>, DeviceError> {
        match self {
            // SAFETY: the caller's promise.
            Freed::Device(pointer) => unsafe { driver::free(pointer) }.map(|()| None),
            Freed::Theirs(owner) => Ok(Some(ManuallyDrop::into_inner(owner))),
            // SAFETY: the caller's promise.
            Freed::Pinned(pointer) => unsafe { driver::free_pinned(pointer) }.map(|()| None),
        }
    }
}

/// Pinned memory that the card copies to for the host to read.
pub(super) struct Readback {
    pub(super) pointer: NonNull<u8>,
}

// SAFETY: the pointer is to memory that any thread may use; the lock around it says who does.
unsafe impl Send for Readback {}

impl Readback {
    /// What is read back at a time, in bytes.
    pub(super) const BYTES: usize = 4 << 20;

    /// In the current context.
    pub(super) fn new() -> Result<Readback, DeviceError> {
        Ok(Readback { pointer: pinned(Readback::BYTES as u64)? })
    }

    /// # Safety
    /// No copy to it is under way.
    pub(super) unsafe fn free(self) -> Result<(), DeviceError> {
        // SAFETY: it is from `pinned`, and consumed.
        unsafe { driver::free_pinned(self.pointer.as_ptr()) }
    }
}
