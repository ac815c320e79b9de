//! Memory of the caller's own.

use ::cudarc::driver::sys::CUdeviceptr;

use super::context::Context;
use super::device::Cuda;
use super::driver::Known;
use super::memory::DeviceMemory;
use crate::{Buffer, DeviceError, Reservation};

impl Cuda {
    /// Device memory of the caller's own as a [`Buffer`], without a copy: as many bytes from `pointer` on as were reserved. The bytes
    /// count against the budget until the last region of them is gone, as ours do, though the budget cannot make their owner free them.
    ///
    /// We never free it. `owner` is dropped once the last region is gone *and* all that was issued until then is done, at the next
    /// call that allocates, stages, gives back memory or asks for the free memory, or in [`reclaim`](Cuda::reclaim), which waits;
    /// or at the latest with the device. That happens on the calling thread. Where memory is refused, `owner` is dropped at once; where
    /// the device is lost, never. It should not itself keep this device or regions of it, which would then keep each other.
    ///
    /// Kernels take weights at any address, and activations at multiples of their elements' size.
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
    ///     // SAFETY: the slice has 4096 bytes, which are zeroed by now, and nobody uses it until it is back.
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
    /// [`DeviceError::Failed`] for a null pointer, for what the driver does not know, and for memory of the host or of another context;
    /// [`DeviceError::OutOfRange`] where its allocation ends before; [`DeviceError::Lost`]. No bytes at all may be anywhere.
    ///
    /// # Safety
    /// Until `owner` is dropped the memory stays allocated, and nothing but this device reads or writes it. What was issued
    /// to it before is done, or both streams of this device have been made to wait for it.
    pub unsafe fn adopt(
        &self,
        pointer: CUdeviceptr,
        reservation: Reservation,
        owner: impl Send + Sync + 'static,
    ) -> Result<Buffer, DeviceError> {
        let bytes = reservation.bytes();
        self.context.with(|| check(&self.context, pointer, bytes))?;
        // SAFETY: the driver says that it is device memory of this context and has as many bytes; the rest is the caller's promise.
        let raw = unsafe { DeviceMemory::adopt(&self.context, pointer, bytes, Box::new(owner)) };
        Ok(Buffer::new(Box::new(raw), reservation))
    }

    /// Waits until nothing uses the device memory that was given back so far, frees it, and drops the owners of the caller's own.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    pub fn reclaim(&self) -> Result<(), DeviceError> {
        self.context.reclaim(true)
    }
}

/// Asks the driver whether so many bytes from a pointer on are device memory of the context.
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
        return refused("it is of another context");
    }
    let offset = pointer.saturating_sub(known.start);
    let available = known.bytes.saturating_sub(offset);
    if bytes > available {
        return Err(DeviceError::OutOfRange { what, offset, bytes, available });
    }
    Ok(())
}
