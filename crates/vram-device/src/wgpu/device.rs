//! The device: puts its parts together and forwards calls to them.

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
/// Options of a [`Wgpu`].
#[derive(Clone, Debug, Default)]
pub struct WgpuOptions {
    /// Which adapter.
    pub adapter: WgpuAdapter,
    /// Most bytes that a kernel binds at once; by default what the adapter allows.
    pub max_binding: Option<u64>,
    /// Most bytes of an allocation; by default what the adapter allows.
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
    /// Opens an adapter with the highest limits it allows.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] with the reason if there is no such adapter or it gives no device.
    pub fn new(options: WgpuOptions) -> Result<Wgpu, DeviceError> {
        let (device, queue) = adapter::open(&options.adapter)?;
        Wgpu::over(device, queue, options)
    }

    /// Uses a caller-owned device and queue, which must belong together. The choice of an adapter is ignored.
    /// Uncaught errors from the caller's own use of the device count as its loss.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if there is no room for the little that the backend itself needs.
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

    /// The device, for custom kernels.
    pub fn device(&self) -> &::wgpu::Device {
        &self.context.driver.device
    }

    /// The queue. Work submitted to it directly runs before work that was issued here but not yet submitted;
    /// [`encode`](Wgpu::encode) keeps the order.
    pub fn queue(&self) -> &::wgpu::Queue {
        &self.context.driver.queue
    }

    /// The buffer of a region and the region's first byte in it, for custom kernels; `None` for memory of
    /// another device.
    pub fn native<'a>(&self, region: &'a Region) -> Option<(&'a ::wgpu::Buffer, u64)> {
        Some((&memory::own(&self.context, region)?.buffer, region.offset()))
    }

    /// Encodes custom work after everything issued so far and before everything issued later.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    pub fn encode(&self, work: impl FnOnce(&mut ::wgpu::CommandEncoder)) -> Result<Ticket, DeviceError> {
        let mut stream = self.context.stream()?;
        work(stream.encoder(&self.context.driver.device));
        let value = stream.issued(&self.context.driver)?;
        Ok(self.context.name(Queue::Compute, value))
    }

    /// Memory use according to the device's allocator; `None` if the API below has no such allocator.
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
            reason: "wgpu does not report it".into(),
        })
    }

    /// Waits first for freed memory that kernels still use, so that both are never held at once.
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

    // There is one queue, so anything issued from now on comes after everything issued before.
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
