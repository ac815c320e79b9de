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
    /// 0 if there are no bytes.
    pointer: u64,
    bytes: u64,
    /// For memory that is not ours to free.
    owner: Option<Owner>,
}

impl DeviceMemory {
    /// Waits for freed memory that is still in use; otherwise both would be allocated at once.
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<DeviceMemory, DeviceError> {
        context.reclaim(true)?;
        let pointer = context.with(|| if bytes == 0 { Ok(0) } else { driver::allocate(bytes) })?;
        Ok(DeviceMemory { context: Arc::clone(context), pointer, bytes, owner: None })
    }

    /// Wraps caller-owned memory.
    ///
    /// # Safety
    /// It is device memory of this context, lives until `owner` is dropped, and is used as
    /// [`Cuda::adopt`](super::Cuda::adopt) requires.
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

// SAFETY: the host does not see it, so there is no pointer that would need a promise.
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

/// Page-locked host memory.
pub(super) struct Pinned {
    pub(super) context: Arc<Context>,
    pub(super) pointer: NonNull<u8>,
    bytes: u64,
}

// SAFETY: the pointer is to memory that any thread may use; `RawBuffer`'s contract says which one does.
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

/// Pinned bytes, zeroed; a dangling pointer if there are none.
pub(super) fn pinned(bytes: u64) -> Result<NonNull<u8>, DeviceError> {
    if bytes == 0 {
        return Ok(NonNull::dangling());
    }
    let pointer = driver::allocate_pinned(bytes)?;
    let what = "cuMemHostAlloc";
    let pointer = NonNull::new(pointer)
        .ok_or_else(|| DeviceError::Failed { what, reason: "it gave no pointer".into() })?;
    // SAFETY: this many bytes were just allocated. The driver does not specify their contents.
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

// SAFETY: the memory was zeroed. It is at the pointer at least until the buffer is dropped (only
// `Context::free` frees it), also after the device is lost. Only the card's copies access it through the
// pointer, and the contract of `upload` forbids the host to write meanwhile.
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

/// The device address of a region, if it is on this device.
pub(super) fn own(context: &Context, region: &Region) -> Option<u64> {
    let raw = region.buffer()?.raw().as_any().downcast_ref::<DeviceMemory>()?;
    (raw.context.id == context.id).then(|| raw.pointer + region.offset())
}
