//! Calls of wgpu, with what goes wrong in them turned into errors: the device, its queue, and whether it is lost.

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
    /// Operations that are known to be done. Behind an `Arc` of its own for the callbacks of the queue.
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
        // Where the device is lost while it is waited for, wgpu panics; that must not pass through a caller's threads.
        let polled = catch_unwind(AssertUnwindSafe(|| self.device.poll(how)));
        match &polled {
            Err(_) => drop(self.lost.set("waiting for it failed".into())),
            // A lost device does not take submissions; why there is none to wait for is told by the next poll.
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

    /// Maps a buffer that no operation under way uses.
    pub(super) fn map(&self, buffer: &::wgpu::Buffer, mode: MapMode) -> Result<(), DeviceError> {
        let (tell, told) = channel();
        buffer.map_async(mode, .., move |mapped| {
            // Nobody listens after an error.
            let _ = tell.send(mapped);
        });
        loop {
            self.poll(PollType::Poll)?;
            match told.try_recv() {
                Ok(mapped) => return mapped.map_err(|e| failed(e.to_string())),
                // Another thread polls at the same time and is about to say so.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
                Err(TryRecvError::Disconnected) => return Err(failed("the device gave no answer".into())),
            }
        }
    }
}

/// Makes errors that no scope catches, and the loss of the device, known to whoever calls next.
fn watch(device: &::wgpu::Device, lost: &Arc<OnceLock<String>>) {
    let of = Arc::clone(lost);
    device.on_uncaptured_error(Arc::new(move |error: ::wgpu::Error| {
        // Work was dropped, so that nothing computed later could be trusted. The first reason is kept.
        let _ = of.set(error.to_string());
    }));
    let of = Arc::clone(lost);
    device.set_device_lost_callback(move |reason, message| {
        let _ = of.set(format!("{reason:?}: {message}"));
    });
}

/// Creates a buffer of at least `bytes` bytes, in whole words. The label is what the allocator's report calls it.
///
/// # Errors
/// [`DeviceError::OutOfMemory`] with what the driver says.
pub(super) fn create_buffer(
    device: &::wgpu::Device,
    label: &'static str,
    bytes: u64,
    usage: BufferUsages,
) -> Result<::wgpu::Buffer, DeviceError> {
    let oom = |reason: String| DeviceError::OutOfMemory { bytes, reason };
    let size = bytes.max(4).checked_next_multiple_of(4).ok_or_else(|| oom("there is no such size".into()))?;
    let memory = device.push_error_scope(ErrorFilter::OutOfMemory);
    let limits = device.push_error_scope(ErrorFilter::Validation);
    let internal = device.push_error_scope(ErrorFilter::Internal);
    // Staging is written before anything else happens to it.
    let mapped_at_creation = usage.contains(BufferUsages::MAP_WRITE);
    let descriptor = ::wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation };
    let buffer = device.create_buffer(&descriptor);
    let errors = [internal.pop(), limits.pop(), memory.pop()].map(pollster::block_on);
    match errors.into_iter().flatten().next() {
        None => Ok(buffer),
        Some(error) => Err(oom(error.to_string())),
    }
}

/// What could not be mapped.
pub(super) fn failed(reason: String) -> DeviceError {
    DeviceError::Failed { what: "mapping memory", reason }
}
