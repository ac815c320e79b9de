//! The device: its parts put together, and what it is asked to do handed on to them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::adapter::{self, WgpuAdapter};
use super::context::Context;
use super::launch::Launcher;
use super::memory::{self, DeviceBuffer, MappedBuffer, WgpuUsage};
use super::transfer::Transfers;
use crate::{
    Buffer, Device, DeviceError, DeviceInfo, Execution, Memory, MemoryInfo, Part, Queue, Region, Reservation,
    Staging, Ticket, Topology,
};
/// How to set up a [`Wgpu`].
#[derive(Clone, Debug, Default)]
pub struct WgpuOptions {
    /// Which adapter.
    pub adapter: WgpuAdapter,
    /// Bytes of a buffer that a kernel may see at once, if fewer than the adapter allows.
    pub max_binding: Option<u64>,
    /// Bytes of an allocation, if fewer than the adapter allows.
    pub max_allocation: Option<u64>,
}

/// A device of `wgpu`; see the [module](super).
pub struct Wgpu {
    info: DeviceInfo,
    pub(super) context: Arc<Context>,
    pub(super) launcher: Launcher,
    transfers: Transfers,
}

impl Wgpu {
    /// Opens an adapter with all that it allows.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] where there is no such adapter or it gives no device, with the reason.
    pub fn new(options: WgpuOptions) -> Result<Wgpu, DeviceError> {
        let (device, queue) = adapter::open(&options.adapter)?;
        Wgpu::over(device, queue, options)
    }

    /// Works on a device and queue of the caller's own, which must have been made for each other. The choice of an adapter
    /// is ignored. Errors that the caller's own use of the device leaves uncaught count as its loss.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] where there is no room for the little that the backend itself needs.
    pub fn over(
        device: ::wgpu::Device,
        queue: ::wgpu::Queue,
        options: WgpuOptions,
    ) -> Result<Wgpu, DeviceError> {
        let adapter = device.adapter_info();
        let context = Context::new(device, queue, options.max_binding, options.max_allocation)?;
        let (launcher, transfers) = (Launcher::new(&context), Transfers::new(&context.driver)?);
        let info = DeviceInfo {
            backend: "wgpu",
            name: adapter::describe(&adapter),
            topology: Topology {
                memory: Memory::Discrete,
                kernels: Execution::Queued,
                separate_copy_queue: false,
            },
            alignment: context.alignment,
            max_allocation: context.max_allocation,
        };
        Ok(Wgpu { info, context, launcher, transfers })
    }

    /// The device, for kernels of one's own.
    pub fn device(&self) -> &::wgpu::Device {
        &self.context.driver.device
    }

    /// The queue. What is submitted to it directly comes before work that was issued here and is not submitted yet;
    /// [`encode`](Wgpu::encode) keeps the order.
    pub fn queue(&self) -> &::wgpu::Queue {
        &self.context.driver.queue
    }

    /// The buffer that a region lies in and the byte where it begins, for kernels of one's own; `None` for memory of
    /// another device.
    pub fn native<'a>(&self, region: &'a Region) -> Option<(&'a ::wgpu::Buffer, u64)> {
        Some((&memory::own(&self.context, region)?.buffer, region.offset()))
    }

    /// Encodes work of one's own after all that was issued so far and before all that is issued later.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    pub fn encode(&self, work: impl FnOnce(&mut ::wgpu::CommandEncoder)) -> Result<Ticket, DeviceError> {
        let mut stream = self.context.stream()?;
        work(stream.encoder(&self.context.driver.device));
        let value = stream.issued(&self.context.driver)?;
        Ok(self.context.name(Queue::Compute, value))
    }

    /// Memory as the allocator of the device counts it; `None` where the API underneath has none of its own.
    pub fn usage(&self) -> Option<WgpuUsage> {
        memory::usage(&self.context)
    }
}

impl Device for Wgpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        Err(DeviceError::Unavailable {
            what: "the memory of the device".into(),
            reason: "wgpu does not tell how much there is".into(),
        })
    }

    /// Memory that was given back while kernels used it is waited for first, so that both are never held at once.
    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError> {
        let raw = DeviceBuffer::new(&self.context, reservation.bytes())?;
        Ok(Buffer::new(Box::new(raw), reservation))
    }

    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError> {
        let bytes = reservation.bytes();
        let raw = MappedBuffer::new(&self.context, bytes)?;
        Staging::new(Buffer::new(Box::new(raw), reservation)).ok_or_else(|| DeviceError::Failed {
            what: "staging",
            reason: format!("{bytes} bytes cannot be mapped"),
        })
    }

    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError> {
        let value = self.transfers.upload(&self.launcher, src, range, dst, at)?;
        Ok(self.context.name(Queue::Copy, value))
    }

    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        self.transfers.download(&self.context, src, at, dst)
    }

    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        let value = self.context.stream()?.last();
        Ok(self.context.name(queue, value))
    }

    // What is issued from now on comes after all that has been, on whichever queue it was asked for.
    fn order(&self, _queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        let last = self.context.stream()?.last();
        self.context.value(after, last).map(drop)
    }

    fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        self.context.is_done(ticket)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        self.context.wait(ticket)
    }
}

impl fmt::Debug for Wgpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wgpu").field("name", &self.info.name).finish_non_exhaustive()
    }
}
