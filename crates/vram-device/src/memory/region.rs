//! Exclusive ownership of ranges of device memory.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use smallvec::SmallVec;

use super::arena::Home;
use crate::sync::Mutex;
use crate::{Buffer, DeviceError, Ticket};

/// The only owner of a range of device memory. Dropping it gives the range back to its
/// [`Arena`](crate::Arena).
pub struct Region {
    // Invariants:
    // 1. No two live regions share a byte of one buffer: a region comes from a whole buffer, which it
    //    consumes, or from an arena, whose allocator hands out disjoint ranges and gets each back only when
    //    its region drops.
    // 2. `range` is inside the buffer.
    // 3. `memory` is `None` only in regions of a measuring arena, which are never read or written.
    memory: Option<Buffer>,
    range: Range<u64>,
    home: Option<(Arc<Home>, u64)>,
    after: SmallVec<[Ticket; 2]>,
    // The last copy issued into the region: the next user of the range must come after it.
    written: Mutex<Option<Ticket>>,
}

impl Region {
    pub(super) fn whole(buffer: Buffer, bytes: u64) -> Region {
        Region {
            memory: Some(buffer),
            range: 0..bytes,
            home: None,
            after: SmallVec::new(),
            written: Mutex::new(None),
        }
    }

    /// A region of an arena; `start` identifies it there.
    pub(super) fn from_home(
        memory: Option<Buffer>,
        range: Range<u64>,
        home: Arc<Home>,
        start: u64,
        after: SmallVec<[Ticket; 2]>,
    ) -> Region {
        Region { memory, range, home: Some((home, start)), after, written: Mutex::new(None) }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Where the region begins in its buffer, in bytes.
    pub fn offset(&self) -> u64 {
        self.range.start
    }

    /// The buffer, for backends and custom kernels. `None` in a measuring arena.
    pub fn buffer(&self) -> Option<&Buffer> {
        self.memory.as_ref()
    }

    /// Work that may still use the memory's previous contents: a copy or kernel that writes here must be
    /// ordered after it.
    pub fn after(&self) -> &[Ticket] {
        &self.after
    }

    /// The bytes, if the host sees them.
    pub fn host(&self) -> Option<&[u8]> {
        let (pointer, len) = self.host_pointer()?;
        // SAFETY: `host_pointer` lies in the buffer for `len` initialised bytes (RawBuffer's contract, invariant 2),
        // the buffer lives as long as `self`, and only this region may write them (invariant 1), which needs `&mut`.
        Some(unsafe { std::slice::from_raw_parts(pointer, len) })
    }

    /// The bytes for writing, if the host sees them.
    pub fn host_mut(&mut self) -> Option<&mut [u8]> {
        let (pointer, len) = self.host_pointer()?;
        // SAFETY: as in `host`, and `&mut self` makes the access exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
    }

    /// The bytes of staging, mapped if necessary.
    pub(super) fn map_mut(&mut self) -> Option<&mut [u8]> {
        let base = self.memory.as_ref()?.raw().map()?;
        let len = self.bytes() as usize;
        // SAFETY: `base` is valid for the buffer's length until the staging is used for something else
        // (RawBuffer's contract), which the borrow of `self` rules out, and the range is inside the buffer
        // (invariant 2).
        Some(unsafe { std::slice::from_raw_parts_mut(base.as_ptr().add(self.range.start as usize), len) })
    }

    /// Gives the range back while work up to `ticket` may still use it. The next region over the range lists
    /// the ticket in [`after`](Region::after).
    pub fn retire(mut self, ticket: Ticket) {
        if let Some((home, start)) = self.home.take() {
            home.release(start, self.bytes(), &[ticket]);
        }
    }

    /// Cuts the region at `cuts` (ascending offsets within it) into parts that several threads can fill
    /// concurrently.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`] if the cuts do not ascend or pass the end.
    pub fn into_parts(self, cuts: &[u64]) -> Result<Vec<Part>, DeviceError> {
        let bytes = self.bytes();
        let shared = Arc::new(self);
        let mut parts = Vec::with_capacity(cuts.len() + 1);
        let mut start = 0;
        for &end in cuts.iter().chain([&bytes]) {
            if end < start || end > bytes {
                return Err(DeviceError::OutOfRange {
                    what: "a cut of a region",
                    offset: start,
                    bytes: end.saturating_sub(start),
                    available: bytes,
                });
            }
            parts.push(Part { region: Arc::clone(&shared), range: start..end });
            start = end;
        }
        Ok(parts)
    }

    fn host_pointer(&self) -> Option<(*mut u8, usize)> {
        let base = self.memory.as_ref()?.raw().host()?;
        // SAFETY: `range.start` is at most the buffer's length (invariant 2), so the pointer stays inside it.
        let pointer = unsafe { base.as_ptr().add(self.range.start as usize) };
        Some((pointer, self.bytes() as usize))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some((home, start)) = self.home.take() {
            let written = *self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
            // A copy was ordered after the previous users; without one, these still have to be waited for.
            let used_until = written.as_ref().map_or(&self.after[..], std::slice::from_ref);
            home.release(start, self.range.end - self.range.start, used_until);
        }
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("offset", &self.range.start).field("bytes", &self.bytes()).finish()
    }
}

/// A piece of a [`Region`] that is being filled; see [`Region::into_parts`].
pub struct Part {
    // Invariant: the ranges of the parts of one region are disjoint, and the region itself is inaccessible
    // until all parts are gone.
    region: Arc<Region>,
    range: Range<u64>,
}

impl Part {
    /// The part's range within its region, in bytes.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The region that the part belongs to: its buffer, its offset there, and the work that may still use its
    /// memory. Its bytes must not be read while parts are being written, so this is for backends only.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Work that may still use the memory's previous contents; see [`Region::after`].
    pub fn after(&self) -> &[Ticket] {
        self.region().after()
    }

    /// The bytes for writing, if the host sees them.
    pub fn host_mut(&mut self) -> Option<&mut [u8]> {
        let (pointer, _) = self.region.host_pointer()?;
        let len = (self.range.end - self.range.start) as usize;
        // SAFETY: the range is inside the region, whose pointer is valid for its whole length. No other part
        // covers these bytes and the region itself is inaccessible (invariant), so the access is exclusive.
        Some(unsafe { std::slice::from_raw_parts_mut(pointer.add(self.range.start as usize), len) })
    }

    /// Records that a copy into the part has been issued, so that the memory is not reused before it is done,
    /// whatever happens to the part.
    pub fn issued(&self, ticket: Ticket) {
        let mut written = self.region.written.lock().unwrap_or_else(PoisonError::into_inner);
        *written = (*written).max(Some(ticket));
    }

    /// Marks this part as filled. The last one to do so gets the region back.
    pub fn finish(self) -> Option<Region> {
        Arc::into_inner(self.region)
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("range", &self.range).finish()
    }
}
