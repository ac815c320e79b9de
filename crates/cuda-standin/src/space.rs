//! Addresses of device memory: host memory behind numbers that the host cannot follow.
//!
//! Two ranges of addresses of the same size are reserved. The first holds what callers get as
//! device pointers. It is never accessible, so a host that follows such a pointer faults. The
//! second, at a fixed distance, holds the bytes; kernels and copies reach them through
//! [`Space::real`]. Addresses are handed out only once, so old pointers are recognised, and there
//! is at least one inaccessible page between two allocations.

use std::ptr;

use crate::fault;
use crate::status::Status;

/// Size of each range, in bytes.
const RANGE: usize = 16 << 40;
const PAGE: usize = 4096;
/// Alignment of device memory. The driver gives more, but promises this.
pub(crate) const ALIGNMENT: usize = 256;
/// Fill byte of new memory: a NaN in f32, f16, bf16 and every fp8.
pub(crate) const POISON: u8 = 0xFF;

/// The two ranges, and how much of the first has been handed out.
#[derive(Debug)]
pub(crate) struct Space {
    device: usize,
    real: usize,
    next: usize,
}

/// The place of an allocation. It owns `pages` bytes of pages from `first` on. Its end is as close
/// to theirs as its alignment permits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Device address.
    pub(crate) address: u64,
    /// Requested size in bytes.
    pub(crate) bytes: usize,
    first: usize,
    pages: usize,
}

impl Space {
    /// Reserves the ranges.
    ///
    /// # Errors
    ///
    /// `OPERATING_SYSTEM` if the system refuses.
    pub(crate) fn reserve() -> Result<Self, Status> {
        let (device, real) = (map(0, RANGE, libc::PROT_NONE)?, map(0, RANGE, libc::PROT_NONE)?);
        fault::watch(device, real, RANGE);
        Ok(Self { device, real, next: device + PAGE })
    }

    /// The host address of a device address; other numbers are returned unchanged.
    pub(crate) fn real(&self, address: u64) -> u64 {
        if self.contains(address) { address - self.device as u64 + self.real as u64 } else { address }
    }

    /// Whether this is a device address, allocated or not.
    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.device as u64..(self.device + RANGE) as u64).contains(&address)
    }

    /// Allocates `bytes` bytes (at least one) and fills them with poison.
    ///
    /// # Errors
    ///
    /// `OUT_OF_MEMORY` if the addresses or the system's memory are used up.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<Place, Status> {
        let inner = bytes.checked_next_multiple_of(ALIGNMENT).ok_or(Status::OUT_OF_MEMORY)?;
        let pages = inner.checked_next_multiple_of(PAGE).ok_or(Status::OUT_OF_MEMORY)?;
        if pages > self.device + RANGE - self.next - PAGE {
            return Err(Status::OUT_OF_MEMORY);
        }
        let first = self.next;
        let real = self.real(first as u64) as usize;
        map(real, pages, libc::PROT_READ | libc::PROT_WRITE).map_err(|_| Status::OUT_OF_MEMORY)?;
        // SAFETY: these pages were just mapped for reading and writing, at addresses that were
        // never handed out.
        unsafe { ptr::write_bytes(real as *mut u8, POISON, pages) };
        self.next += pages + PAGE;
        Ok(Place { address: (first + pages - inner) as u64, bytes, first, pages })
    }

    /// Whether the bytes around an allocation are still poison. A kernel that writes past its end
    /// changes them.
    pub(crate) fn surroundings_untouched(&self, place: &Place) -> bool {
        let start = self.real(place.address) as usize;
        let first = self.real(place.first as u64) as usize;
        let around = |from: usize, to: usize| {
            // SAFETY: both ends are within the pages of this place, which are mapped until it is
            // freed.
            unsafe { std::slice::from_raw_parts(from as *const u8, to - from) }.iter().all(|&b| b == POISON)
        };
        around(first, start) && around(start + place.bytes, first + place.pages)
    }

    /// Returns an allocation's pages to the system. Its addresses are not reused.
    pub(crate) fn give_back(&self, place: &Place) {
        // Pages that cannot be unmapped stay; nothing of ours reaches them any more.
        _ = map(self.real(place.first as u64) as usize, place.pages, libc::PROT_NONE);
    }
}

/// Host memory in whole pages, filled with poison. `cuMemHostAlloc` hands it out.
///
/// # Errors
///
/// `OUT_OF_MEMORY` if the system refuses.
pub(crate) fn host_pages(bytes: usize) -> Result<usize, Status> {
    let start = map(0, bytes, libc::PROT_READ | libc::PROT_WRITE).map_err(|_| Status::OUT_OF_MEMORY)?;
    // SAFETY: `bytes` bytes were just mapped there for reading and writing.
    unsafe { ptr::write_bytes(start as *mut u8, POISON, bytes) };
    Ok(start)
}

/// Frees the pages of [`host_pages`].
///
/// # Safety
///
/// They are no longer in use.
pub(crate) unsafe fn free_host_pages(start: usize, bytes: usize) {
    // SAFETY: mapped by `host_pages` with this length, and the caller promises that they are no
    // longer in use.
    unsafe { libc::munmap(start as *mut libc::c_void, bytes) };
}

/// Maps fresh anonymous pages: anywhere if `at` is 0, otherwise there, replacing what was mapped.
fn map(at: usize, bytes: usize, protection: i32) -> Result<usize, Status> {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: either the system chooses the addresses, or they are within a range that this file
    // reserved.
    let start = unsafe { libc::mmap(at as *mut libc::c_void, bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED { Err(Status::OPERATING_SYSTEM) } else { Ok(start as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_are_aligned_poisoned_and_apart() {
        let mut space = Space::reserve().unwrap();
        let (a, b) = (space.take(100).unwrap(), space.take(5000).unwrap());
        assert!(a.address % ALIGNMENT as u64 == 0 && b.address % ALIGNMENT as u64 == 0);
        assert!(a.address + 100 + PAGE as u64 <= b.address);
        for place in [a, b] {
            let real = space.real(place.address) as *mut u8;
            // SAFETY: the place is mapped, and nothing else has its address.
            let bytes = unsafe { std::slice::from_raw_parts_mut(real, place.bytes + 1) };
            assert!(
                bytes.iter().all(|&b| b == POISON)
                    && f32::from_bits(u32::from_ne_bytes([POISON; 4])).is_nan()
            );
            bytes[place.bytes - 1] = 0;
            assert!(space.surroundings_untouched(&place));
            bytes[place.bytes] = 0;
            assert!(!space.surroundings_untouched(&place));
            space.give_back(&place);
        }
        assert_eq!(space.take(usize::MAX).unwrap_err(), Status::OUT_OF_MEMORY);
        assert_eq!(space.real(12), 12);
    }
}
