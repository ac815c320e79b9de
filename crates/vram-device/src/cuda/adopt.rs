//! Caller-owned memory.

use ::cudarc::driver::sys::CUdeviceptr;

use super::context::Context;
use super::device::Cuda;
use super::driver::Known;
use super::memory::DeviceMemory;
use crate::{Buffer, DeviceError, Reservation};

impl Cuda {
    /// Wraps caller-owned device memory in a [`Buffer`], without a copy: `reservation.bytes()` bytes that
    /// begin at `pointer`. The bytes count against the budget until their last region is gone, like our own,
    /// though the budget cannot make their owner free them.
    ///
    /// We never free it. `owner` is dropped once the last region is gone *and* everything issued until then
    /// is done: at the next call that allocates, stages, gives back memory or asks for the free memory, in
    /// [`reclaim`](Cuda::reclaim), which waits, or at the latest with the device. It is dropped on the
    /// calling thread. If the memory is refused, `owner` is dropped at once; if the device is lost, never. It
    /// should not keep this device or regions of it alive, because they would then keep each other alive.
    ///
    /// Kernels accept weights at any address, and activations at multiples of their element size.
    ///
    /// ```
    /// use std::error::Error;
    /// use std::sync::Arc;
    /// use vram_device::cuda::Cuda;
    /// use vram_device::cuda::api::driver::{CudaStream, DevicePtr};
    /// use vram_device::{Budget, Lifetime};
    ///
    /// fn lend(cuda: &Cuda, stream: &Arc<CudaStream>, budget: &Budget) -> Result<(), Box<dyn Error>> {
    ///     let mine = Arc::new(stream.alloc_zeros::<u8>(4096)?);
    ///     let pointer = mine.device_ptr(stream).0;
    ///     stream.synchronize()?;
    ///     let room = budget.reserve(Lifetime::Weights, 4096)?;
    ///     // SAFETY: the slice has 4096 bytes, which are zeroed by now, and is not used until it is back.
    ///     let region = unsafe { cuda.adopt(pointer, room, Arc::clone(&mine)) }?.into_region();
    ///     // Views of the region in kernels, uploads into it.
    ///     drop(region);
    ///     cuda.reclaim()?;
    ///     assert_eq!(Arc::strong_count(&mine), 1);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`DeviceError::Failed`] for a null pointer, for memory that the driver does not know, and for memory
    /// of the host or of another context; [`DeviceError::OutOfRange`] if its allocation ends earlier;
    /// [`DeviceError::Lost`]. An empty reservation is accepted at any address.
    ///
    /// # Safety
    /// Until `owner` is dropped, the memory stays allocated and only this device reads or writes it. Work
    /// issued to it before is done, or both streams of this device have been made to wait for it.
    pub unsafe fn adopt(
        &self,
        pointer: CUdeviceptr,
        reservation: Reservation,
        owner: impl Send + Sync + 'static,
    ) -> Result<Buffer, DeviceError> {
        let bytes = reservation.bytes();
        self.context.with(|| check(&self.context, pointer, bytes))?;
        // SAFETY: the driver says that it is device memory of this context with this many bytes; the rest is
        // the caller's promise.
        let raw = unsafe { DeviceMemory::adopt(&self.context, pointer, bytes, Box::new(owner)) };
        Ok(Buffer::new(Box::new(raw), reservation))
    }

    /// Waits until the device memory given back so far is no longer in use, frees it, and drops the owners of
    /// caller-owned memory.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    pub fn reclaim(&self) -> Result<(), DeviceError> {
        self.context.reclaim(true)
    }
}

/// Asks the driver whether `bytes` bytes at `pointer` are device memory of the context.
fn check(context: &Context, pointer: u64, bytes: u64) -> Result<(), DeviceError> {
    let what = "memory of the caller's own";
    let refused = |reason: &str| Err(DeviceError::Failed { what, reason: reason.to_owned() });
    if bytes == 0 {
        return Ok(());
    }
    if pointer == 0 {
        return refused("its pointer is null");
    }
    let Some(known) = Known::at(pointer, context.ctx())? else {
        return refused("the driver knows of no memory there");
    };
    if known.of_host {
        return refused("it is memory of the host");
    }
    if !known.is_ours {
        return refused("it belongs to another context");
    }
    let offset = pointer.saturating_sub(known.start);
    let available = known.bytes.saturating_sub(offset);
    if bytes > available {
        return Err(DeviceError::OutOfRange { what, offset, bytes, available });
    }
    Ok(())
}
