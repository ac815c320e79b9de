//! Reading files: from the page cache, past it, or from a memory map; piece by piece, by several threads or by io_uring.

mod aligned;
mod auto;
mod batch;
mod cache;
mod direct;
mod file;
#[cfg(target_os = "linux")]
mod fresh;
mod handle;
mod map;
mod mount;
mod probe;
mod queue;
mod streaming;
mod task;
mod threads;
#[cfg(all(target_os = "linux", feature = "io-uring"))]
mod uring;

use std::fs::File;
use std::io;

use vram_types::{CancelToken, FileId, Priority};

pub(crate) use aligned::{Aligned, HUGE_PAGE, Pool, zeroed};
pub(crate) use batch::{Copied, Span, join};
pub(crate) use file::StoredFile;
pub(crate) use handle::Wrap;
pub(crate) use map::FileMap;
pub use mount::{FileReading, ReadPath};
pub use queue::ReadQueue;
pub(crate) use streaming::LEAST_STREAMED_BYTES;
pub(crate) use task::{Failed, Task, cut, is_whole};
pub(crate) use threads::{THREADS, read_all, share};

/// How the bytes of tensors are read. Headers are always read through the page cache.
///
/// A way that is not there (the file system, the platform or the sandbox refuses it) is replaced by the one before it in
/// this order: `Uring`, `Direct`, `Buffered`; [`DiskMap::reading`](crate::DiskMap::reading) says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadMode {
    /// What the page cache holds is copied from there; the rest is read so that the cache stays as it was, in the way that
    /// is chosen for the mount: a file larger than memory evicts nobody's pages.
    #[default]
    Auto,
    /// Through the page cache, always, by several threads.
    Buffered,
    /// Past the page cache, always (Linux `O_DIRECT`), by several threads.
    Direct,
    /// Past the page cache, always, by io_uring (Linux, feature `io-uring`).
    Uring,
}

/// Positioned reads of one open file: all that is asked of one, besides what it is.
///
/// `pread` on Unix, `seek_read` on Windows. Put another between a [`DiskMap`](crate::DiskMap) and its files with
/// [`read_through`](crate::DiskMapOptions::read_through): to meter, to slow down, or to fail.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("m.safetensors");
/// # let meta = vram_types::TensorMeta::new(vram_types::DType::U8, [3])?;
/// # let mut writer = vram_diskmap::SafetensorsWriter::create(&path, [("a", meta)], &[])?;
/// # writer.write(&[7; 3])?;
/// # writer.finish()?;
/// use std::io;
/// use vram_diskmap::{DiskMap, ReadAt};
///
/// struct Meter(Box<dyn ReadAt>);
///
/// impl ReadAt for Meter {
///     fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
///         println!("{} bytes at {offset}", dst.len());
///         self.0.read_at(dst, offset)
///     }
/// }
///
/// let map = DiskMap::options().read_through(|_path, file| Box::new(Meter(file))).open(&path)?;
/// assert_eq!(map.get("a")?.bytes(), [7; 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait ReadAt: Send + Sync {
    /// Reads at an offset; may read less than asked for, 0 only at the end of the file.
    ///
    /// # Errors
    /// The system's; `Interrupted` is tried again.
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(self, dst, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(self, dst, offset);
    }
}

/// Fills as much of `dst` as there is, past interruptions and short reads; less than its length only at the end of the file.
pub(crate) fn fill(from: &(impl ReadAt + ?Sized), dst: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < dst.len() {
        match from.read_at(&mut dst[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// What is the same for all pieces of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) mode: ReadMode,
    pub(crate) pool: &'a Pool,
    pub(crate) queue: &'a ReadQueue,
    pub(crate) priority: Priority,
    pub(crate) cancel: &'a CancelToken,
    /// Whether it is more than caches hold.
    pub(crate) streamed: bool,
}

/// Bytes of a file and where they go: `dst[at..at + len]`. The rest of `dst` may be overwritten.
pub(crate) struct Piece<'a> {
    pub(crate) id: FileId,
    pub(crate) file: &'a StoredFile,
    pub(crate) offset: u64,
    pub(crate) dst: &'a mut [u8],
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl<'a> Piece<'a> {
    /// The same bytes as a piece of a shorter life.
    pub(crate) fn reborrow(&mut self) -> Piece<'_> {
        Piece { dst: self.dst, ..*self }
    }

    /// Takes the first `len` bytes off, with the slack before them. Slack between the two holds wanted bytes, so the
    /// first keeps none after it and the second none before.
    pub(crate) fn split_off_front(self, len: usize) -> (Piece<'a>, Piece<'a>) {
        let (front, back) = self.dst.split_at_mut(self.at + len);
        let (id, file, offset) = (self.id, self.file, self.offset + len as u64);
        let first = Piece { id, file, offset: self.offset, dst: front, at: self.at, len };
        (first, Piece { id, file, offset, dst: back, at: 0, len: self.len - len })
    }

    pub(crate) fn wanted(&mut self) -> &mut [u8] {
        &mut self.dst[self.at..self.at + self.len]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Gives three bytes at a time and is interrupted every other call.
    struct Stutter {
        bytes: Vec<u8>,
        calls: Mutex<usize>,
    }

    impl ReadAt for Stutter {
        fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
            let mut calls = self.calls.lock().unwrap();
            *calls += 1;
            if calls.is_multiple_of(2) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let rest = &self.bytes[(offset as usize).min(self.bytes.len())..];
            let n = rest.len().min(dst.len()).min(3);
            dst[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }
    }

    #[test]
    fn short_reads_and_interruptions_are_continued() {
        let source = Stutter { bytes: (0..100).collect(), calls: Mutex::default() };
        let mut dst = [0; 40];
        assert_eq!(fill(&source, &mut dst, 10).unwrap(), 40);
        assert!(dst.iter().copied().eq(10..50));
        assert_eq!(fill(&source, &mut dst, 90).unwrap(), 10);
    }
}
