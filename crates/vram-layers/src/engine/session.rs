//! Device memory that outlives passes: key-value caches, computed buffers, adapters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vram_device::{Arena, Device, DeviceError, Region, Reservation};

use super::arena::{ALIGN, first_fit};
use crate::error::Error;

/// Device memory that stays when a pass ends, when the model is offloaded and when another plan is put in
/// force. It counts against the engine's budget until it is dropped.
///
/// ```
/// # use vram_layers::{Engine, Error};
/// /// Room for the keys and values of `tokens` tokens, 4 KiB each.
/// fn cache(engine: &Engine, tokens: u64) -> Result<vram_device::Region, Error> {
///     let session = engine.session(tokens * 4096)?;
///     // Resident weights have made room if necessary; the region keeps the session's memory alive.
///     session.alloc(tokens * 4096)
/// }
/// ```
#[derive(Debug)]
pub struct Session {
    arena: Arena,
    bytes: u64,
    held: Arc<AtomicU64>,
}

impl Session {
    /// Every region of a session takes a multiple of this many bytes.
    pub const ALIGNMENT: u64 = ALIGN;

    /// A region of the session's memory, with unspecified contents. Dropping the region gives its bytes back
    /// to the session; use [`Region::retire`] if kernels may still use them. Regions may outlive the session,
    /// and keep all of its memory alive as long as they do.
    ///
    /// # Errors
    /// An error that [`is_oom`](Error::is_oom) if the session has no free piece of that size.
    pub fn alloc(&self, bytes: u64) -> Result<Region, Error> {
        self.arena.alloc(bytes, ALIGN).ok_or_else(|| {
            let reason = format!("the session has {} bytes in all", self.bytes);
            DeviceError::OutOfMemory { bytes, reason }.into()
        })
    }

    /// Bytes that it takes from the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that all sessions of an engine hold.
#[derive(Debug, Default)]
pub(super) struct Sessions(Arc<AtomicU64>);

impl Sessions {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A session in reserved bytes.
    pub(super) fn open(&self, device: &dyn Device, room: Reservation) -> Result<Session, Error> {
        let bytes = room.bytes();
        let arena = first_fit(device, room)?;
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Ok(Session { arena, bytes, held: Arc::clone(&self.0) })
    }
}
