//! Copies to the card and back.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use super::context::{AtEnd, Context};
use super::driver;
use super::guard::{Guard, guard};
use super::memory::{Pinned, own, pinned};
use crate::{DeviceError, Part, Queue, Region, Staging, Ticket};

/// Copies `src[range]` to byte `at` of a part, on the copy stream, after the work that may still use the
/// memory.
pub(super) fn upload(
    context: &Context,
    src: &Staging,
    range: Range<u64>,
    dst: &Part,
    at: u64,
) -> Result<Ticket, DeviceError> {
    let bytes = range.end.saturating_sub(range.start);
    let staging = src.region().buffer().and_then(|b| b.raw().as_any().downcast_ref::<Pinned>());
    let staging = staging.filter(|s| s.context.id == context.id);
    let available = staging.map_or(0, |_| src.bytes());
    let Some(staging) = staging.filter(|_| range.start <= range.end && range.end <= available) else {
        let what = "the source of an upload";
        return Err(DeviceError::OutOfRange { what, offset: range.start, bytes, available });
    };
    let (to, from) = (target(context, dst, at, bytes)?, src.region().offset() + range.start);
    if guard(Guard::UploadAfter) {
        dst.after().iter().try_for_each(|&ticket| context.order(Queue::Copy, ticket))?;
    }
    context.issue(Queue::Copy, |stream| {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both ranges are inside their allocations, as was checked above. These are freed after what
        // was issued (`Context::free`), and the host writes the staging again only after the ticket (the
        // contract of `upload`).
        unsafe { driver::copy_in(to, staging.pointer.as_ptr().add(from as usize), bytes, stream) }
    })
}

fn target(context: &Context, dst: &Part, at: u64, bytes: u64) -> Result<u64, DeviceError> {
    let (region, part) = (dst.region(), dst.range());
    let own = own(context, region);
    let available = own.map_or(0, |_| part.end - part.start);
    let fits = at.checked_add(bytes).is_some_and(|end| end <= available);
    match own.filter(|_| fits) {
        Some(pointer) => Ok(pointer + part.start + at),
        None => {
            Err(DeviceError::OutOfRange { what: "the target of an upload", offset: at, bytes, available })
        }
    }
}

/// Downloads through pinned memory, which is kept for the next one.
#[derive(Default)]
pub(super) struct Readback(Mutex<Option<Piece>>);

/// Pinned memory that the card copies to and the host reads.
struct Piece(NonNull<u8>);

// SAFETY: the pointer is to memory that any thread may use; the lock around it serialises access.
unsafe impl Send for Piece {}

/// Bytes that are read back at a time.
const PIECE: usize = 4 << 20;

impl Readback {
    /// Copies bytes from `at` on into host memory, after all kernels issued so far.
    pub(super) fn download(
        &self,
        context: &Context,
        src: &Region,
        at: u64,
        dst: &mut [u8],
    ) -> Result<(), DeviceError> {
        let bytes = dst.len() as u64;
        let own = own(context, src);
        let available = own.map_or(0, |_| src.bytes());
        let fits = at.checked_add(bytes).is_some_and(|end| end <= available);
        let Some(pointer) = own.filter(|_| fits) else {
            let what = "the source of a download";
            return Err(DeviceError::OutOfRange { what, offset: at, bytes, available });
        };
        // SAFETY: the range is inside the region, which is borrowed until everything is copied.
        unsafe { self.copy_out(context, pointer + at, dst) }
    }

    /// Reads a word of device memory, after all kernels issued so far.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    ///
    /// # Safety
    /// There is a word of device memory at `at`, which lives until the call returns.
    pub(super) unsafe fn word(&self, context: &Context, at: u64) -> Result<u32, DeviceError> {
        let mut bytes = [0; 4];
        // SAFETY: the caller's promise.
        unsafe { self.copy_out(context, at, &mut bytes) }?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// # Safety
    /// There are `dst.len()` bytes of device memory at `from`, which live until the call returns.
    unsafe fn copy_out(&self, context: &Context, mut from: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in dst.chunks_mut(PIECE) {
            let readback = match kept.take() {
                Some(readback) => readback,
                None => Piece(context.with(|| pinned(PIECE as u64))?),
            };
            let to = readback.0.as_ptr();
            let ticket = context.issue(Queue::Compute, |stream| {
                // SAFETY: the caller's promise, until the copy is waited for below; the readback is large
                // enough, and its lock is held.
                unsafe { driver::copy_out(to, from, piece.len() as u64, stream) }
            })?;
            if guard(Guard::DownloadWait) {
                context.wait(ticket)?;
            }
            // SAFETY: the readback holds this many initialised bytes, and the copy to it is done.
            piece.copy_from_slice(unsafe { std::slice::from_raw_parts(to, piece.len()) });
            // Kept only on success: otherwise a copy to it might be in flight.
            *kept = Some(readback);
            from += piece.len() as u64;
        }
        Ok(())
    }
}

impl AtEnd for Readback {
    fn end(&self) {
        if let Some(Piece(pointer)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // SAFETY: it is from `pinned`, and no copy to it is in flight. An error has no one to go to.
            let _ = unsafe { driver::free_pinned(pointer.as_ptr()) };
        }
    }
}
