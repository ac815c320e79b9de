//! Memory that begins at a multiple of a sector, in huge pages where there are any, in a bounded
//! number of reused pieces.

use std::sync::Mutex;

/// Bytes of one bounce buffer: long enough that the disk, not the call, sets the speed.
pub(crate) const BOUNCE_BYTES: usize = 1 << 20;
/// Pieces that a pool keeps for the next readers.
const MOST_KEPT: usize = 16;
/// What the system maps at once where it can: a buffer of this length and alignment is one page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// Memory is not asked to be in huge pages below this: it need not hold a whole one.
#[cfg(target_os = "linux")]
const LEAST_HUGE_BYTES: usize = 2 * HUGE_PAGE;

/// A buffer of which a part begins at a multiple of an alignment.
pub(crate) struct Aligned {
    buffer: Vec<u8>,
    start: usize,
    len: usize,
    align: usize,
}

impl Aligned {
    /// `len` bytes that begin at a multiple of `align`, a power of two.
    pub(crate) fn new(len: usize, align: usize) -> Aligned {
        let buffer = zeroed(len + align);
        let start = buffer.as_ptr().align_offset(align).min(align);
        Aligned { buffer, start, len, align }
    }

    /// Whether it is as long, and begins as it should.
    pub(crate) fn fits(&self, len: usize, align: usize) -> bool {
        self.len >= len && self.align >= align
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }
}

/// Zeros that no page has been given for yet, in huge pages where the system has them: a disk then
/// gets its addresses in one piece instead of 512, and the first touch takes one fault instead of
/// 512.
pub(crate) fn zeroed(len: usize) -> Vec<u8> {
    in_huge_pages(vec![0; len])
}

/// Room for so many bytes, in huge pages likewise.
#[cfg(target_os = "linux")]
pub(super) fn reserved(len: usize) -> Vec<u8> {
    in_huge_pages(Vec::with_capacity(len))
}

/// Only a hint: without huge pages everything works, a little slower.
fn in_huge_pages(buffer: Vec<u8>) -> Vec<u8> {
    #[cfg(target_os = "linux")]
    if buffer.capacity() >= LEAST_HUGE_BYTES {
        let page = rustix::param::page_size();
        let skip = buffer.as_ptr().align_offset(page);
        let len = buffer.capacity().saturating_sub(skip) / page * page;
        let first = buffer.as_ptr().wrapping_add(skip).cast_mut().cast();
        // SAFETY: whole pages inside of what the buffer has; MADV_HUGEPAGE says how they are to be backed and changes no byte,
        // and where they are given back to the allocator it stays as harmless.
        let _ = unsafe { rustix::mm::madvise(first, len, rustix::mm::Advice::LinuxHugepage) };
    }
    buffer
}

/// Buffers that readers borrow and return.
#[derive(Default)]
pub(crate) struct Pool {
    kept: Mutex<Vec<Aligned>>,
}

impl Pool {
    /// Runs `work` with at least `len` bytes that begin at a multiple of `align`.
    pub(crate) fn with<R>(&self, len: usize, align: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner()).pop();
        let mut piece =
            kept.filter(|piece| piece.fits(len, align)).unwrap_or_else(|| Aligned::new(len, align));
        let result = work(piece.bytes_mut());
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if kept.len() < MOST_KEPT {
            kept.push(piece);
        }
        result
    }
}
