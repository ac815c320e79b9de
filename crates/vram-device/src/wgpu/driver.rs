//! Calls into wgpu, with failures turned into errors: the device, its queue, and whether it is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{TryRecvError, channel};
use std::sync::{Arc, OnceLock};

use ::wgpu::{BufferUsages, ErrorFilter, MapMode, PollError, PollStatus, PollType};

use crate::DeviceError;

/// The device and its queue.
pub(super) struct Driver {
    pub(super) device: ::wgpu::Device,
    pub(super) queue: ::wgpu::Queue,
    /// Operations known to be done. In its own `Arc` for the callbacks of the queue.
    pub(super) done: Arc<AtomicU64>,
    lost: Arc<OnceLock<String>>,
}

impl Driver {
    pub(super) fn new(device: ::wgpu::Device, queue: ::wgpu::Queue) -> Driver {
        let lost = Arc::new(OnceLock::new());
        watch(&device, &lost);
        Driver { device, queue, done: Arc::default(), lost }
    }

    pub(super) fn alive(&self) -> Result<(), DeviceError> {
        match self.lost.get() {
            None => Ok(()),
            Some(reason) => Err(DeviceError::Lost { reason: reason.clone() }),
        }
    }

    pub(super) fn poll(&self, how: PollType) -> Result<(), DeviceError> {
        // If the device is lost during a wait, wgpu panics; the panic must not reach the caller.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(how)));
        match &polled {
            Err(_) => drop(self.lost.set("waiting for it failed".into())),
            // A lost device accepts no submissions; the next poll reports why there is none to wait for.
            Ok(Err(_)) => drop(catch_unwind(AssertUnwindSafe(|| self.device.poll(PollType::Poll)))),
            Ok(Ok(_)) => {}
        }
        self.alive()?;
        match polled.unwrap_or(Ok(PollStatus::Poll)) {
            Ok(_) => Ok(()),
            Err(e @ (PollError::Timeout | PollError::WrongSubmissionIndex(..))) => {
                Err(DeviceError::Failed { what: "waiting for the device", reason: e.to_string() })
            }
        }
    }

    /// Maps a buffer that no operation in flight uses.
    pub(super) fn map(&self, buffer: &::wgpu::Buffer, mode: MapMode) -> Result<(), DeviceError> {
        let (tell, told) = channel();
        buffer.map_async(mode, .., move |mapped| {
            // After an error, the receiver is gone.
            let _ = tell.send(mapped);
        });
        loop {
            self.poll(PollType::Poll)?;
            match told.try_recv() {
                Ok(mapped) => return mapped.map_err(|e| failed(e.to_string())),
                // Another thread polls at the same time and is about to run the callback.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => return Err(failed("the device gave no answer".into())),
            }
        }
    }
}

/// Records uncaught errors and the loss of the device, for later calls to report.
fn watch(device: &::wgpu::Device, lost: &Arc<OnceLock<String>>) {
    let of = Arc::clone(lost);
    device.on_uncaptured_error(Arc::new(move |error: ::wgpu::Error| {
        // Work was dropped, so later results could not be trusted. The first reason is kept.
        let _ = of.set(error.to_string());
    }));
    let of = Arc::clone(lost);
    device.set_device_lost_callback(move |reason, message| {
        let _ = of.set(format!("{reason:?}: {message}"));
    });
}

/// Creates a buffer of at least `bytes` bytes, in whole words. The label appears in the allocator's report.
///
/// # Errors
/// [`DeviceError::OutOfMemory`] with the driver's message.
pub(super) fn create_buffer(
    device: &::wgpu::Device,
    label: &'static str,
    bytes: u64,
    usage: BufferUsages,
) -> Result<::wgpu::Buffer, DeviceError> {
    let oom = |reason: String| DeviceError::OutOfMemory { bytes, reason };
    let size = bytes.max(4).checked_next_multiple_of(4).ok_or_else(|| oom("the size overflows".into()))?;
    let memory = device.push_error_scope(ErrorFilter::OutOfMemory);
    let limits = device.push_error_scope(ErrorFilter::Validation);
    let internal = device.push_error_scope(ErrorFilter::Internal);
    // Staging is written before anything else is done with it.
    let mapped_at_creation = usage.contains(BufferUsages::MAP_WRITE);
    let descriptor = ::wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation };
    let buffer = device.create_buffer(&descriptor);
    let errors = [internal.pop(), limits.pop(), memory.pop()].map(pollster::block_on);
    match errors.into_iter().flatten().next() {
        None => Ok(buffer),
        Some(error) => Err(oom(error.to_string())),
    }
}

/// The error for a buffer that could not be mapped.
pub(super) fn failed(reason: String) -> DeviceError {
    DeviceError::Failed { what: "mapping memory", reason }
}
