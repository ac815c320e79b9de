//! A device whose memory is looked at after each call, and may be less than it is.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use vram_device::ops::{Checked, Op};
use vram_device::wgpu::{Wgpu, WgpuUsage};
use vram_device::{
    Buffer, Device, DeviceError, DeviceInfo, Kernels, MemoryInfo, Part, Queue, Region, Reservation, Staging,
    Ticket, ViewMut,
};

/// Passes each call on, and then asks the allocator of the device what it holds.
#[derive(Debug)]
pub(crate) struct Watched {
    wgpu: Arc<Wgpu>,
    most: Mutex<Most>,
    /// Bytes beyond which an allocation is refused, as a driver refuses it.
    capacity: Mutex<u64>,
}

/// The most that was ever held, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Most {
    /// By all buffers.
    pub(crate) allocated: u64,
    /// By the blocks in which they lie.
    pub(crate) reserved: u64,
    /// How often it was looked at.
    pub(crate) looks: u64,
    /// Allocations on the device since.
    pub(crate) allocations: u64,
}

impl Watched {
    /// `None` where the API underneath has no allocator of its own.
    pub(crate) fn new(wgpu: Arc<Wgpu>) -> Option<Watched> {
        wgpu.usage()?;
        Some(Watched { wgpu, most: Mutex::default(), capacity: Mutex::new(u64::MAX) })
    }

    /// The most since this was asked last.
    pub(crate) fn take(&self) -> Most {
        std::mem::take(&mut self.most.lock().unwrap())
    }

    pub(crate) fn usage(&self) -> WgpuUsage {
        self.wgpu.usage().unwrap()
    }

    /// From now on the device has so many bytes, staging and what the backend takes for itself included.
    pub(crate) fn shrink_to(&self, bytes: u64) {
        *self.capacity.lock().unwrap() = bytes;
    }

    fn look<R>(&self, result: R) -> R {
        let WgpuUsage { allocated, reserved } = self.usage();
        let mut most = self.most.lock().unwrap();
        most.allocated = most.allocated.max(allocated);
        most.reserved = most.reserved.max(reserved);
        most.looks += 1;
        result
    }
}

impl Device for Watched {
    fn info(&self) -> &DeviceInfo {
        self.wgpu.info()
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.wgpu.memory()
    }

    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError> {
        let bytes = reservation.bytes();
        // First, for the backend waits for what was dropped and is still in use, which is none of the card's any more.
        let buffer = self.wgpu.allocate(reservation)?;
        if self.usage().allocated > *self.capacity.lock().unwrap() {
            return Err(DeviceError::OutOfMemory { bytes, reason: "the card is full".into() });
        }
        let buffer = self.look(buffer);
        self.most.lock().unwrap().allocations += 1;
        Ok(buffer)
    }

    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError> {
        self.look(self.wgpu.stage(reservation))
    }

    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError> {
        self.look(self.wgpu.upload(src, range, dst, at))
    }

    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        self.look(self.wgpu.download(src, at, dst))
    }

    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        self.look(self.wgpu.ticket(queue))
    }

    fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        self.look(self.wgpu.order(queue, after))
    }

    fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        self.look(self.wgpu.is_done(ticket))
    }

    fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        self.look(self.wgpu.wait(ticket))
    }
}

impl Kernels for Watched {
    fn scratch(&self, op: &Op<'_>) -> u64 {
        self.wgpu.scratch(op)
    }

    fn takes(&self, op: &Op<'_>) -> Result<(), DeviceError> {
        self.wgpu.takes(op)
    }

    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        self.look(self.wgpu.run(op, scratch))
    }
}
