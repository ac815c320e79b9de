//! What all parts of the backend share: the device, its limits, its stream of work, and whether it is lost.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ::wgpu::{BufferUsages, ErrorFilter, PollError, PollStatus, PollType, SubmissionIndex};

use super::WgpuOptions;
use super::memory::{DeviceBuffer, Readback};
use super::pipeline::Pipelines;
use super::queue::Stream;
use super::transfer::Patch;
use crate::{DeviceError, Queue, Region, Ticket};

/// Bits of a ticket's value that count operations; those above name the device.
const COUNT_BITS: u32 = 40;

pub(super) struct Context {
    pub(super) id: u64,
    pub(super) device: ::wgpu::Device,
    pub(super) queue: ::wgpu::Queue,
    /// Alignment of allocations and of the places where a kernel's sight of a buffer may begin.
    pub(super) alignment: u64,
    pub(super) max_binding: u64,
    pub(super) max_allocation: u64,
    pub(super) pipelines: Pipelines,
    pub(super) patch: Patch,
    /// Operations that are known to be done. Behind an `Arc` of its own for the callbacks of the queue.
    pub(super) done: Arc<AtomicU64>,
    /// Bytes of buffers that were dropped since the device was last known to be idle: they may still be in use.
    pub(super) dropped: AtomicU64,
    lost: Arc<OnceLock<String>>,
    // Lock order: the readback's, then the stream's; the pipelines' alone.
    pub(super) readback: Mutex<Option<Readback>>,
    stream: Mutex<Stream>,
}

impl Context {
    pub(super) fn new(
        device: ::wgpu::Device,
        queue: ::wgpu::Queue,
        options: &WgpuOptions,
    ) -> Result<Arc<Context>, DeviceError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed) % ((1 << 24) - 1) + 1;
        let lost = Arc::new(OnceLock::new());
        watch(&device, &lost);
        let limits = device.limits();
        // A kernel addresses what it sees by 32-bit offsets.
        let max_binding = limits.max_storage_buffer_binding_size.min(u64::from(u32::MAX)) / 4 * 4;
        let max_allocation = limits.max_buffer_size / 4 * 4;
        let patch = Patch::new(&device)?;
        let stream = Mutex::new(Stream::new(&device)?);
        Ok(Arc::new(Context {
            id,
            alignment: u64::from(limits.min_storage_buffer_offset_alignment.max(256)),
            max_binding: options.max_binding.map_or(max_binding, |b| b.min(max_binding) / 4 * 4),
            max_allocation: options.max_allocation.map_or(max_allocation, |b| b.min(max_allocation) / 4 * 4),
            pipelines: Pipelines::default(),
            patch,
            done: Arc::default(),
            dropped: AtomicU64::new(0),
            lost,
            readback: Mutex::new(None),
            stream,
            device,
            queue,
        }))
    }

    pub(super) fn alive(&self) -> Result<(), DeviceError> {
        match self.lost.get() {
            None => Ok(()),
            Some(reason) => Err(DeviceError::Lost { reason: reason.clone() }),
        }
    }

    /// The work that has been issued, to add to it.
    pub(super) fn stream(&self) -> Result<MutexGuard<'_, Stream>, DeviceError> {
        self.alive()?;
        // A panic below may have left work half encoded; what it was for is lost with the call that panicked.
        Ok(self.stream.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device memory behind a region, if it is of this device.
    pub(super) fn own<'a>(&self, region: &'a Region) -> Option<&'a DeviceBuffer> {
        let raw = region.buffer()?.raw().as_any().downcast_ref::<DeviceBuffer>()?;
        (raw.context.id == self.id).then_some(raw)
    }

    pub(super) fn name(&self, queue: Queue, value: u64) -> Ticket {
        Ticket { queue, value: self.id << COUNT_BITS | value }
    }

    /// The operation that a ticket stands for; `last` is the newest that there is.
    pub(super) fn value(&self, ticket: Ticket, last: u64) -> Result<u64, DeviceError> {
        let value = ticket.value & ((1 << COUNT_BITS) - 1);
        if ticket.value >> COUNT_BITS != self.id || value > last {
            let reason = format!("{ticket:?} is not of this device");
            return Err(DeviceError::Failed { what: "a ticket", reason });
        }
        Ok(value)
    }

    pub(super) fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        let mut stream = self.stream()?;
        let value = self.value(ticket, stream.last())?;
        if value <= self.done.load(Ordering::Acquire) {
            return Ok(true);
        }
        stream.submit_until(self, value)?;
        drop(stream);
        self.poll(PollType::Poll)?;
        Ok(value <= self.done.load(Ordering::Acquire))
    }

    pub(super) fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        let mut stream = self.stream()?;
        let value = self.value(ticket, stream.last())?;
        if value <= self.done.load(Ordering::Acquire) {
            return Ok(());
        }
        let submission = stream.submit_until(self, value)?;
        drop(stream);
        match submission {
            Some((through, index)) => self.wait_for(through, index),
            None => Ok(()),
        }
    }

    /// Waits until a submission is done; it ends with operation `through`.
    pub(super) fn wait_for(&self, through: u64, index: SubmissionIndex) -> Result<(), DeviceError> {
        self.poll(PollType::Wait { submission_index: Some(index), timeout: None })?;
        // Another thread may be about to say so, having been the one that saw it.
        self.done.fetch_max(through, Ordering::AcqRel);
        Ok(())
    }

    /// Waits until everything issued so far is done.
    pub(super) fn idle(&self) -> Result<(), DeviceError> {
        let last = self.stream()?.last();
        self.wait(self.name(Queue::Compute, last))?;
        // Frees what nobody holds any more.
        self.poll(PollType::Poll)
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
