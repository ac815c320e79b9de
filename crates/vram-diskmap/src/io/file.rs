//! A file of a checkpoint, and proof that it is still the one that was opened.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vram_types::{SourceError, SourceErrorKind};

use super::cache::{Cached, cached};
use super::direct::{DEFAULT_ALIGNMENT, Direct};
use super::{FileMap, Pool, ReadMode, fill};

/// Below this many bytes a read goes through the page cache: its read-ahead serves the neighbours.
const LEAST_DIRECT_BYTES: usize = 128 << 10;
/// Pieces of a partly cached range are not split further.
const LEAST_SPLIT_BYTES: usize = 1 << 20;

/// An open file of a checkpoint.
pub(crate) struct StoredFile {
    path: PathBuf,
    file: File,
    identity: Identity,
    direct: Direct,
    map: Option<FileMap>,
}

/// What stays the same as long as nobody touches the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    bytes: u64,
    modified: Option<SystemTime>,
    node: (u64, u64),
}

impl Identity {
    fn of(meta: &Metadata) -> Identity {
        #[cfg(unix)]
        let node = {
            use std::os::unix::fs::MetadataExt;
            (meta.dev(), meta.ino())
        };
        #[cfg(not(unix))]
        let node = (0, 0);
        Identity { bytes: meta.len(), modified: meta.modified().ok(), node }
    }
}

impl StoredFile {
    pub(crate) fn open(path: &Path) -> Result<StoredFile, SourceError> {
        let at = |e: io::Error| SourceError::io(e).at_path(path);
        let file = File::open(path).map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        if !meta.is_file() {
            return Err(SourceError::new(SourceErrorKind::Invalid, "not a regular file").at_path(path));
        }
        let identity = Identity::of(&meta);
        Ok(StoredFile { path: path.to_owned(), file, identity, direct: Direct::default(), map: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length when it was opened.
    pub(crate) fn bytes(&self) -> u64 {
        self.identity.bytes
    }

    pub(crate) fn map(&self) -> Option<&FileMap> {
        self.map.as_ref()
    }

    /// Serves all later reads from a memory map.
    ///
    /// # Safety
    /// As [`FileMap::new`].
    pub(crate) unsafe fn set_map(&mut self) -> Result<(), SourceError> {
        // SAFETY: the caller's promise is the same.
        let map = unsafe { FileMap::new(&self.file, self.bytes()) };
        self.map = Some(map.map_err(|e| SourceError::io(e).at_path(&self.path))?);
        Ok(())
    }

    /// The alignment of direct reads, [`DEFAULT_ALIGNMENT`] where there are none.
    pub(crate) fn direct_alignment(&self) -> usize {
        self.direct.alignment(&self.file).unwrap_or(DEFAULT_ALIGNMENT)
    }

    /// Fills `dst` through the page cache, as headers are read.
    pub(crate) fn read_plain(&self, dst: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let got = fill(&self.file, dst, offset).map_err(|e| self.failed(e, offset))?;
        self.complete(got, dst.len(), offset)
    }

    /// Fills `dst[at..at + len]`; the rest of `dst` may be overwritten. The caller has checked that it fits.
    pub(crate) fn read(
        &self,
        mode: ReadMode,
        pool: &Pool,
        dst: &mut [u8],
        at: usize,
        len: usize,
        offset: u64,
    ) -> Result<(), SourceError> {
        if let Some(map) = &self.map {
            let got = map.copy(&mut dst[at..at + len], offset);
            return self.complete(got, len, offset);
        }
        let got = match mode {
            ReadMode::Buffered => self.plain(dst, at, len, offset),
            ReadMode::Direct => self.direct(pool, dst, at, len, offset),
            ReadMode::Auto => self.auto(pool, dst, at, len, offset),
        };
        self.complete(got.map_err(|e| self.failed(e, offset))?, len, offset)
    }

    /// Fails if the file has been written to since it was opened.
    pub(crate) fn unchanged(&self) -> Result<(), SourceError> {
        let meta = self.file.metadata().map_err(|e| SourceError::io(e).at_path(&self.path))?;
        let now = Identity::of(&meta);
        if now.bytes < self.identity.bytes {
            return Err(self.truncated(now.bytes));
        }
        if now != self.identity {
            let message = "the file has changed since it was opened";
            return Err(SourceError::new(SourceErrorKind::Invalid, message).at_path(&self.path));
        }
        Ok(())
    }

    fn plain(&self, dst: &mut [u8], at: usize, len: usize, offset: u64) -> io::Result<usize> {
        fill(&self.file, &mut dst[at..at + len], offset)
    }

    fn direct(&self, pool: &Pool, dst: &mut [u8], at: usize, len: usize, offset: u64) -> io::Result<usize> {
        match self.direct.read(&self.file, pool, dst, at, len, offset) {
            Some(result) => result,
            None => self.plain(dst, at, len, offset),
        }
    }

    fn auto(&self, pool: &Pool, dst: &mut [u8], at: usize, len: usize, offset: u64) -> io::Result<usize> {
        if len < LEAST_DIRECT_BYTES || self.direct.alignment(&self.file).is_none() {
            return self.plain(dst, at, len, offset);
        }
        match cached(&self.file, offset, len as u64) {
            Cached::All => self.plain(dst, at, len, offset),
            Cached::None => self.direct(pool, dst, at, len, offset),
            Cached::Missing(_) if len >= 2 * LEAST_SPLIT_BYTES => {
                // Halves on a sector's border, so that the second stays congruent; the slack between them holds wanted bytes.
                let cut = offset + len as u64 / 2;
                let half = (cut - cut % DEFAULT_ALIGNMENT as u64 - offset) as usize;
                let got = self.auto(pool, &mut dst[..at + half], at, half, offset)?;
                if got < half {
                    return Ok(got);
                }
                let rest = self.auto(pool, &mut dst[at + half..], 0, len - half, offset + half as u64)?;
                Ok(half + rest)
            }
            Cached::Missing(pages) => {
                let mostly_cold = pages as usize > len / DEFAULT_ALIGNMENT / 2;
                if mostly_cold {
                    self.direct(pool, dst, at, len, offset)
                } else {
                    self.plain(dst, at, len, offset)
                }
            }
            Cached::Unknown => self.auto_unknown(pool, dst, at, len, offset),
        }
    }

    /// Takes what the cache gives without waiting, and the rest past it.
    #[cfg(target_os = "linux")]
    fn auto_unknown(
        &self,
        pool: &Pool,
        dst: &mut [u8],
        at: usize,
        len: usize,
        offset: u64,
    ) -> io::Result<usize> {
        use rustix::io::{ReadWriteFlags, preadv2};

        let mut done = 0;
        while done < len {
            let mut part = [io::IoSliceMut::new(&mut dst[at + done..at + len])];
            match preadv2(&self.file, &mut part, offset + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => return Ok(done),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => return self.plain(dst, at, len, offset),
            }
        }
        let rest = len - done;
        let from = offset + done as u64;
        // Slack before the rest would overwrite what has just been read with the same bytes: harmless, and needed.
        let got = match rest {
            0 => 0,
            r if r < LEAST_DIRECT_BYTES => self.plain(dst, at + done, rest, from)?,
            _ => self.direct(pool, dst, at + done, rest, from)?,
        };
        Ok(done + got)
    }

    #[cfg(not(target_os = "linux"))]
    fn auto_unknown(
        &self,
        _: &Pool,
        dst: &mut [u8],
        at: usize,
        len: usize,
        offset: u64,
    ) -> io::Result<usize> {
        self.plain(dst, at, len, offset)
    }

    fn complete(&self, got: usize, wanted: usize, offset: u64) -> Result<(), SourceError> {
        if got < wanted {
            return Err(self.truncated(offset + got as u64).at_offset(offset));
        }
        Ok(())
    }

    fn truncated(&self, end: u64) -> SourceError {
        let message =
            format!("the file ends at byte {end}, it had {} bytes when it was opened", self.bytes());
        SourceError::new(SourceErrorKind::Truncated, message).at_path(&self.path)
    }

    fn failed(&self, e: io::Error, offset: u64) -> SourceError {
        SourceError::io(e).at_path(&self.path).at_offset(offset)
    }
}
