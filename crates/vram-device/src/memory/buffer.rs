//! Allocations of a device.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::{Region, Reservation};

/// What a backend allocates.
///
/// # Safety
/// If [`host`](RawBuffer::host) gives a pointer, it must be the same for the buffer's whole life, valid for reads and
/// writes of [`bytes`](RawBuffer::bytes) initialised bytes from any thread, and no safe code of the implementor may
/// read or write through it: [`Region`]s decide who may. The same holds for what [`map`](RawBuffer::map) gives, but only
/// until the [`Staging`] over the buffer is next borrowed for something else, as
/// [`upload`](crate::Device::upload) does, or dropped.
pub unsafe trait RawBuffer: Any + Send + Sync {
    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Where the host sees the memory; `None` where it does not.
    fn host(&self) -> Option<NonNull<u8>>;

    /// Where the host may write staging now. Memory that the host sees only between copies is brought back into its
    /// sight, for which the call may wait until the device is done with it.
    fn map(&self) -> Option<NonNull<u8>> {
        self.host()
    }

    /// For the backend to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// An allocation together with the bytes of budget that it takes. Freed when the last [`Region`] of it is gone.
pub struct Buffer(Arc<Owned>);

struct Owned {
    // Order matters: the memory goes before its reservation is given back.
    raw: Box<dyn RawBuffer>,
    reservation: Reservation,
}

impl Buffer {
    /// Joins what a backend allocated with the reservation it was allocated against.
    pub fn new(raw: Box<dyn RawBuffer>, reservation: Reservation) -> Buffer {
        Buffer(Arc::new(Owned { raw, reservation }))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.reservation.bytes()
    }

    /// The backend's own type.
    pub fn raw(&self) -> &dyn RawBuffer {
        &*self.0.raw
    }

    /// A second handle to the same memory. Not public: whoever has a `Buffer` is its only owner, or regions that
    /// are made of two handles would alias.
    pub(super) fn share(&self) -> Buffer {
        Buffer(Arc::clone(&self.0))
    }

    /// All of it as one region. Takes the buffer, so that no second region of the same bytes can be made.
    pub fn into_region(self) -> Region {
        let bytes = self.bytes();
        Region::whole(self, bytes)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.bytes()).finish()
    }
}

/// Host memory from which a device copies asynchronously (pinned, mapped, or plain where that is no slower).
///
/// It can be written and copied from, and not read: the memory may be mapped for writing alone, and only between copies.
#[derive(Debug)]
pub struct Staging(Region);

impl Staging {
    /// Staging over a buffer that the host sees; `None` if the host does not see it.
    pub fn new(buffer: Buffer) -> Option<Staging> {
        buffer.raw().map()?;
        Some(Staging(buffer.into_region()))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// The bytes, to be written. Only once the tickets of all uploads from here are done.
    pub fn host_mut(&mut self) -> &mut [u8] {
        self.0.map_mut().unwrap_or_default()
    }

    /// The memory as a region, for backends.
    pub fn region(&self) -> &Region {
        &self.0
    }
}
