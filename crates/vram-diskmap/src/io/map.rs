//! A memory map of a whole file, and windows into it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;
use vram_types::{HostBytes, SourceError};

use super::streaming::copy_past_caches;

/// A read-only map of a file.
#[derive(Clone)]
pub(crate) struct FileMap(Arc<Mmap>);

impl FileMap {
    /// Maps the first `bytes` bytes of `file`.
    ///
    /// # Safety
    /// Nobody changes or shortens the file while the map or a window of it lives: the bytes are
    /// shared references, and an access beyond a shortened file's end is a fatal signal.
    pub(crate) unsafe fn new(file: &File, bytes: u64) -> io::Result<FileMap> {
        let len = usize::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the caller promises that the file stays as it is; the length is the file's own.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        Ok(FileMap(Arc::new(map)))
    }

    /// The bytes of a range; `None` if the file has no such bytes.
    pub(crate) fn window(&self, range: Range<u64>) -> Option<Window> {
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        self.0.get(start..end)?;
        Some(Window { map: self.clone(), start, end })
    }

    /// Copies bytes out, past the caches if that is `streamed`, and gives their pages back.
    /// Returns how many there were.
    pub(crate) fn copy(&self, dst: &mut [u8], offset: u64, streamed: bool) -> usize {
        let len = self.0.len() as u64;
        let start = offset.min(len);
        let end = offset.saturating_add(dst.len() as u64).min(len);
        match self.window(start..end) {
            Some(window) => {
                let bytes = window.bytes();
                let dst = &mut dst[..bytes.len()];
                if streamed {
                    copy_past_caches(dst, bytes);
                } else {
                    dst.copy_from_slice(bytes);
                }
                bytes.len()
            }
            None => 0,
        }
    }
}

/// Some bytes of a map; dropping it gives back the whole pages inside.
pub(crate) struct Window {
    map: FileMap,
    start: usize,
    end: usize,
}

impl HostBytes for Window {
    fn bytes(&self) -> &[u8] {
        self.map.0.get(self.start..self.end).unwrap_or_default()
    }

    fn prefault(&self) -> Result<(), SourceError> {
        #[cfg(target_os = "linux")]
        {
            let len = self.end - self.start;
            if len == 0 || self.map.0.advise_range(memmap2::Advice::PopulateRead, self.start, len).is_ok() {
                return Ok(());
            }
        }
        // Before Linux 5.14: touching a byte of each page does the same.
        for byte in self.bytes().iter().step_by(4096) {
            std::hint::black_box(*byte);
        }
        Ok(())
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        #[cfg(unix)]
        {
            let page = page_size();
            let (first, last) = (self.start.next_multiple_of(page), self.end / page * page);
            if first < last {
                // SAFETY: MADV_DONTNEED on a read-only shared map of a file only unmaps pages: another window that
                // still uses one faults the same bytes in again. `first..last` lies inside the
                // map.
                let dropped = unsafe {
                    self.map.0.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, last - first)
                };
                // Advice that is refused leaves pages mapped, which the system reclaims when it
                // needs them.
                let _ = dropped;
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn page_size() -> usize {
    rustix::param::page_size()
}

/// At least the system's page size, which is all that giving back needs.
#[cfg(all(unix, not(target_os = "linux")))]
fn page_size() -> usize {
    64 << 10
}
