//! Positioned reads: from the page cache, past it, or from a memory map.

mod aligned;
mod cache;
mod direct;
mod file;
mod map;

use std::fs::File;
use std::io;

pub(crate) use aligned::Pool;
pub(crate) use file::StoredFile;
pub(crate) use map::FileMap;

/// How the bytes of tensors are read. Headers are always read through the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadMode {
    /// What the page cache holds is copied from there; the rest is read past it where that pays, so that a file
    /// larger than memory evicts nobody's pages. Falls back to [`Buffered`](ReadMode::Buffered) where the file
    /// system or the platform knows no direct reads.
    #[default]
    Auto,
    /// Through the page cache, always.
    Buffered,
    /// Past the page cache, always (Linux `O_DIRECT`), with the same fallback as [`Auto`](ReadMode::Auto).
    Direct,
}

/// Reads at an offset; may read less than asked for, 0 only at the end of the file.
pub(crate) trait ReadAt {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Gives three bytes at a time and is interrupted every other call.
    struct Stutter {
        bytes: Vec<u8>,
        calls: Cell<usize>,
    }

    impl ReadAt for Stutter {
        fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
            self.calls.set(self.calls.get() + 1);
            if self.calls.get().is_multiple_of(2) {
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
        let source = Stutter { bytes: (0..100).collect(), calls: Cell::new(0) };
        let mut dst = [0; 40];
        assert_eq!(fill(&source, &mut dst, 10).unwrap(), 40);
        assert!(dst.iter().copied().eq(10..50));
        assert_eq!(fill(&source, &mut dst, 90).unwrap(), 10);
    }
}
