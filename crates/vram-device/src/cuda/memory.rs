//! Device memory and pinned staging.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use super::context::Context;
use super::driver;
use super::freed::{Freed, Owner};
use crate::{DeviceError, RawBuffer, Region};

/// An allocation on the card.
pub(super) struct DeviceMemory {
    context: Arc<Context>,
    /// 0 where there are no bytes.
    pointer: u64,
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
    pub(super) unsafe fn adopt(
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
            self.context.free(Freed::Adopted(ManuallyDrop::new(owner)));
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
pub(super) fn pinned(bytes: u64) -> Result<NonNull<u8>, DeviceError> {
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

/// Where a region lies on the card, if it is of this device.
pub(super) fn own(context: &Context, region: &Region) -> Option<u64> {
    let raw = region.buffer()?.raw().as_any().downcast_ref::<DeviceMemory>()?;
    (raw.context.id == context.id).then(|| raw.pointer + region.offset())
}
