//! Device memory, and staging that is mapped between copies.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::wgpu::{BufferUsages, BufferViewMut, MapMode};

use super::context::Context;
use super::driver::{create_buffer, failed};
use crate::{DeviceError, Queue, RawBuffer, Region};

/// Device memory according to the device's allocator, including staging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WgpuUsage {
    /// Bytes of all buffers.
    pub allocated: u64,
    /// Bytes taken from the driver: those of the blocks that buffers are in.
    pub reserved: u64,
}

/// The allocator's report; `None` if the API below has no such allocator.
pub(super) fn usage(context: &Context) -> Option<WgpuUsage> {
    let report = context.driver.device.generate_allocator_report()?;
    Some(WgpuUsage { allocated: report.total_allocated_bytes, reserved: report.total_reserved_bytes })
}

/// The buffer of a region, if it is on this device.
pub(super) fn own<'a>(context: &Context, region: &'a Region) -> Option<&'a DeviceBuffer> {
    let raw = region.buffer()?.raw().as_any().downcast_ref::<DeviceBuffer>()?;
    (raw.context.id == context.id).then_some(raw)
}

/// An allocation that kernels see.
pub(super) struct DeviceBuffer {
    context: Arc<Context>,
    pub(super) buffer: ::wgpu::Buffer,
    bytes: u64,
}

impl DeviceBuffer {
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<DeviceBuffer, DeviceError> {
        context.driver.alive()?;
        if bytes > context.max_allocation {
            let reason = format!("the adapter allows buffers of {} bytes", context.max_allocation);
            return Err(DeviceError::OutOfMemory { bytes, reason });
        }
        // Otherwise memory that was already given back to the budget would exist beside the new buffer.
        if context.dropped.swap(0, Ordering::AcqRel) > 0 {
            context.idle()?;
        }
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let buffer = create_buffer(&context.driver.device, "vram device memory", bytes, usage)?;
        Ok(DeviceBuffer { context: Arc::clone(context), buffer, bytes })
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        // Issued work keeps the memory until it is done.
        self.context.dropped.fetch_add(self.buffer.size(), Ordering::AcqRel);
    }
}

// SAFETY: the host does not see it, so there is no pointer that would need a promise.
unsafe impl RawBuffer for DeviceBuffer {
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

/// Staging: visible to the host until it is copied from, and again after the next call of `map`.
pub(super) struct MappedBuffer {
    context: Arc<Context>,
    buffer: ::wgpu::Buffer,
    bytes: u64,
    // Its lock comes before the stream's.
    state: Mutex<State>,
}

enum State {
    Mapped(BufferViewMut),
    /// Copied from; this operation was the last.
    Copied(u64),
    /// Fallback host memory after device loss: writers need no check, and the next copy returns `Lost`.
    Astray(Vec<u8>),
}

impl MappedBuffer {
    pub(super) fn new(context: &Arc<Context>, bytes: u64) -> Result<MappedBuffer, DeviceError> {
        context.driver.alive()?;
        if bytes > context.max_allocation {
            let reason = format!("the adapter allows buffers of {} bytes", context.max_allocation);
            return Err(DeviceError::OutOfMemory { bytes, reason });
        }
        let usage = BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC;
        let buffer = create_buffer(&context.driver.device, "vram staging", bytes, usage)?;
        let view = view(&buffer)?;
        let state = Mutex::new(State::Mapped(view));
        Ok(MappedBuffer { context: Arc::clone(context), buffer, bytes, state })
    }

    pub(super) fn is_of(&self, context: &Context) -> bool {
        self.context.id == context.id
    }

    /// Unmaps the memory and calls `encode`, which returns the last operation that copies from it.
    pub(super) fn copy_from(
        &self,
        encode: impl FnOnce(&::wgpu::Buffer) -> Result<u64, DeviceError>,
    ) -> Result<u64, DeviceError> {
        let mut state = self.state();
        if let State::Astray(_) = *state {
            self.context.driver.alive()?;
            let reason = "its memory could not be mapped again".to_owned();
            return Err(DeviceError::Failed { what: "staging", reason });
        }
        if let State::Mapped(_) = *state {
            // Drop the view first: a buffer is not unmapped while one exists.
            *state = State::Copied(0);
            self.buffer.unmap();
        }
        let last = encode(&self.buffer)?;
        *state = State::Copied(last);
        Ok(last)
    }

    /// Maps it again once operation `last` is done.
    fn map_after(&self, last: u64) -> Result<BufferViewMut, DeviceError> {
        let context = &self.context;
        context.wait(context.name(Queue::Copy, last))?;
        context.driver.map(&self.buffer, MapMode::Write)?;
        view(&self.buffer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is changed in one step each.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: `host` returns nothing. What `map` returns is in a view of the whole mapped buffer, which is kept
// in `state` until `copy_from`, and so until `upload` or the drop of the staging. wgpu keeps the mapping,
// which it has zeroed or which holds what was written, for as long. Otherwise it is in a vector that is never
// touched again. Nothing here writes through either.
unsafe impl RawBuffer for MappedBuffer {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn host(&self) -> Option<NonNull<u8>> {
        None
    }

    fn map(&self) -> Option<NonNull<u8>> {
        let mut state = self.state();
        if let State::Copied(last) = *state {
            *state = match self.map_after(last) {
                Ok(view) => State::Mapped(view),
                Err(_) => State::Astray(vec![0; usize::try_from(self.bytes).ok()?]),
            };
        }
        match &mut *state {
            State::Mapped(view) => Some(view.slice(..).as_raw_element_ptr()),
            State::Astray(bytes) => NonNull::new(bytes.as_mut_ptr()),
            State::Copied(_) => None,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn view(buffer: &::wgpu::Buffer) -> Result<BufferViewMut, DeviceError> {
    buffer.get_mapped_range_mut(..).map_err(|e| failed(e.to_string()))
}
