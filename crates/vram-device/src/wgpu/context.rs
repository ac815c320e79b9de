//! The core of the backend: the device with its limits, its stream of work, and the tickets that name
//! positions in it. It knows nothing of what is built on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::wgpu::{PollType, SubmissionIndex};

use super::driver::Driver;
use super::queue::Stream;
use crate::{DeviceError, Queue, Ticket};

/// Bits of a ticket's value that count operations; those above name the device.
const COUNT_BITS: u32 = 40;

pub(super) struct Context {
    pub(super) id: u64,
    pub(super) driver: Driver,
    /// Alignment of allocations and of bindings.
    pub(super) alignment: u64,
    pub(super) max_binding: u64,
    pub(super) max_allocation: u64,
    /// Bytes of buffers dropped since the device was last known to be idle: they may still be in use.
    pub(super) dropped: AtomicU64,
    // Lock order: locks of what is built on this come first.
    stream: Mutex<Stream>,
}

impl Context {
    /// Binds and allocates no more at once than the adapter and the caller allow.
    pub(super) fn new(
        device: ::wgpu::Device,
        queue: ::wgpu::Queue,
        max_binding: Option<u64>,
        max_allocation: Option<u64>,
    ) -> Result<Arc<Context>, DeviceError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed) % ((1 << 24) - 1) + 1;
        let driver = Driver::new(device, queue);
        let limits = driver.device.limits();
        // A kernel addresses its bindings by 32-bit offsets.
        let binding = limits.max_storage_buffer_binding_size.min(u64::from(u32::MAX)) / 4 * 4;
        let allocation = limits.max_buffer_size / 4 * 4;
        let stream = Mutex::new(Stream::new(&driver.device)?);
        Ok(Arc::new(Context {
            id,
            alignment: u64::from(limits.min_storage_buffer_offset_alignment.max(256)),
            max_binding: max_binding.map_or(binding, |b| b.min(binding) / 4 * 4),
            max_allocation: max_allocation.map_or(allocation, |b| b.min(allocation) / 4 * 4),
            dropped: AtomicU64::new(0),
            stream,
            driver,
        }))
    }

    /// The work that has been issued, to add to it.
    pub(super) fn stream(&self) -> Result<MutexGuard<'_, Stream>, DeviceError> {
        self.driver.alive()?;
        // A panic below may have left work half encoded; it belonged to the call that panicked.
        Ok(self.stream.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn name(&self, queue: Queue, value: u64) -> Ticket {
        Ticket { queue, value: self.id << COUNT_BITS | value }
    }

    /// The operation that a ticket stands for; `last` is the newest one.
    pub(super) fn value(&self, ticket: Ticket, last: u64) -> Result<u64, DeviceError> {
        let value = ticket.value & ((1 << COUNT_BITS) - 1);
        if ticket.value >> COUNT_BITS != self.id || value > last {
            let reason = format!("{ticket:?} belongs to another device");
            return Err(DeviceError::Failed { what: "a ticket", reason });
        }
        Ok(value)
    }

    pub(super) fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        let mut stream = self.stream()?;
        let value = self.value(ticket, stream.last())?;
        if value <= self.driver.done.load(Ordering::Acquire) {
            return Ok(true);
        }
        stream.submit_until(&self.driver, value)?;
        drop(stream);
        self.driver.poll(PollType::Poll)?;
        Ok(value <= self.driver.done.load(Ordering::Acquire))
    }

    pub(super) fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        let mut stream = self.stream()?;
        let value = self.value(ticket, stream.last())?;
        if value <= self.driver.done.load(Ordering::Acquire) {
            return Ok(());
        }
        let submission = stream.submit_until(&self.driver, value)?;
        drop(stream);
        match submission {
            Some((through, index)) => self.wait_for(through, index),
            None => Ok(()),
        }
    }

    /// Waits until a submission is done; `through` is its last operation.
    pub(super) fn wait_for(&self, through: u64, index: SubmissionIndex) -> Result<(), DeviceError> {
        self.driver.poll(PollType::Wait { submission_index: Some(index), timeout: None })?;
        // The thread that saw it done may not have recorded it yet.
        self.driver.done.fetch_max(through, Ordering::AcqRel);
        Ok(())
    }

    /// Waits until everything issued so far is done.
    pub(super) fn idle(&self) -> Result<(), DeviceError> {
        let last = self.stream()?.last();
        self.wait(self.name(Queue::Compute, last))?;
        // Frees buffers that were dropped.
        self.driver.poll(PollType::Poll)
    }
}
