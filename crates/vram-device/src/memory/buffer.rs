//! Allocations of a device.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::{Region, Reservation};

/// Memory that a backend allocates.
///
/// # Safety
/// If [`host`](RawBuffer::host) returns a pointer, it must be the same for the buffer's whole life, and valid
/// for reads and writes of [`bytes`](RawBuffer::bytes) initialised bytes from any thread. No safe code of the
/// implementor may read or write through it: [`Region`]s decide who may. The same holds for the pointer that
/// [`map`](RawBuffer::map) returns, but only until the [`Staging`] over the buffer is next borrowed for
/// something else, as [`upload`](crate::Device::upload) does, or dropped.
pub unsafe trait RawBuffer: Any + Send + Sync {
    /// Size in bytes.
    fn bytes(&self) -> u64;

    /// Host pointer to the memory; `None` if the host does not see it.
    fn host(&self) -> Option<NonNull<u8>>;

    /// Host pointer to staging that may be written now. Memory that is visible to the host only between
    /// copies is mapped again, for which the call may wait until the device is done with it.
    fn map(&self) -> Option<NonNull<u8>> {
        self.host()
    }

    /// Lets the backend recover its own type.
    fn as_any(&self) -> &dyn Any;
}

/// An allocation together with its reservation. Freed when the last [`Region`] of it is gone.
pub struct Buffer(Arc<Owned>);

struct Owned {
    // Field order matters: the memory is freed before its reservation is given back.
    raw: Box<dyn RawBuffer>,
    reservation: Reservation,
}

impl Buffer {
    /// Combines a backend's allocation with the reservation it was made against.
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

    /// A second handle to the same memory. Not public: the holder of a `Buffer` must be its only owner,
    /// because regions made from two handles would alias.
    pub(super) fn share(&self) -> Buffer {
        Buffer(Arc::clone(&self.0))
    }

    /// The whole buffer as one region. It consumes the buffer, so that no second region of the same bytes can
    /// be made.
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

/// Host memory that a device copies from asynchronously (pinned, mapped, or plain if that is no slower).
///
/// It can be written and copied from, but not read: the memory may be mapped for writing only, and only
/// between copies.
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

    /// The bytes, for writing. Call it only once the tickets of all uploads from here are done.
    pub fn host_mut(&mut self) -> &mut [u8] {
        self.0.map_mut().unwrap_or_default()
    }

    /// The memory as a region, for backends.
    pub fn region(&self) -> &Region {
        &self.0
    }
}
