//! A file of a checkpoint, and proof that it is still the one that was opened.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use vram_types::{SourceError, SourceErrorKind};

use super::cache::{self, Cached, cached};
use super::direct::{DEFAULT_ALIGNMENT, Direct};
use super::handle::{Handle, Wrap};
use super::mount::{FileReading, Mount};
use super::{FileMap, Piece, ReadMode, Terms, fill};

/// An open file of a checkpoint.
pub(crate) struct StoredFile {
    path: PathBuf,
    pub(super) plain: Handle,
    identity: Identity,
    pub(super) direct: Direct,
    map: Option<FileMap>,
    pub(super) mount: Arc<Mount>,
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
    /// Opens a file that will be read in that mode.
    pub(crate) fn open(path: &Path, mode: ReadMode, wrap: Option<&Wrap>) -> Result<StoredFile, SourceError> {
        let at = |e: io::Error| SourceError::io(e).at_path(path);
        let file = File::open(path).map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        if !meta.is_file() {
            return Err(SourceError::new(SourceErrorKind::Invalid, "not a regular file").at_path(path));
        }
        let identity = Identity::of(&meta);
        let mount = Mount::of(&file, identity.node.0);
        if mode != ReadMode::Buffered {
            cache::end_read_ahead(&file);
        }
        let plain = Handle::new(file, path, wrap).map_err(at)?;
        let direct = Direct::new(wrap.cloned());
        Ok(StoredFile { path: path.to_owned(), plain, identity, direct, map: None, mount })
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
        let map = unsafe { FileMap::new(self.plain.file(), self.bytes()) };
        self.map = Some(map.map_err(|e| SourceError::io(e).at_path(&self.path))?);
        Ok(())
    }

    /// The alignment of direct reads, [`DEFAULT_ALIGNMENT`] where there are none.
    pub(crate) fn direct_alignment(&self) -> usize {
        self.direct.alignment(&self.plain, &self.path).unwrap_or(DEFAULT_ALIGNMENT)
    }

    /// Whether the page cache has all of a range, as far as the system tells.
    pub(crate) fn is_cached(&self, offset: u64, len: usize) -> bool {
        cached(self.plain.file(), offset, len as u64) == Cached::All
    }

    /// In which way it is read, and why.
    pub(crate) fn reading(&self, mode: ReadMode) -> FileReading {
        self.mount.reading(self, mode)
    }

    /// Fills `dst` through the page cache, as headers are read.
    pub(crate) fn read_plain(&self, dst: &mut [u8], offset: u64) -> Result<(), SourceError> {
        let got = fill(&self.plain, dst, offset);
        self.complete(got, dst.len(), offset)
    }

    /// Reads through the page cache what it does not hold, and lets it forget that again.
    pub(super) fn pass_through(&self, mut piece: Piece<'_>) -> io::Result<usize> {
        let (offset, len) = (piece.offset, piece.len as u64);
        let got = fill(&self.plain, piece.wanted(), offset);
        cache::forget(self.plain.file(), offset, len);
        got
    }

    /// Reads a piece of this file on the calling thread. The caller has checked that it fits.
    pub(crate) fn read(&self, terms: &Terms<'_>, mut piece: Piece<'_>) -> Result<(), SourceError> {
        let (len, offset) = (piece.len, piece.offset);
        let got = match &self.map {
            Some(map) => Ok(map.copy(piece.wanted(), offset, terms.streamed)),
            None => self.read_by(terms, piece)?,
        };
        self.complete(got, len, offset)
    }

    /// Fails if the file has been written to since it was opened.
    ///
    /// Asked after the bytes have been read: what was read before a change and what was read after it are both refused.
    pub(crate) fn unchanged(&self) -> Result<(), SourceError> {
        let meta = self.plain.file().metadata().map_err(|e| SourceError::io(e).at_path(&self.path))?;
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

    /// What came of a read: an error that names file and offset unless all of it is there.
    pub(crate) fn complete(
        &self,
        got: io::Result<usize>,
        wanted: usize,
        offset: u64,
    ) -> Result<(), SourceError> {
        match got {
            Ok(got) if got < wanted => Err(self.truncated(offset + got as u64).at_offset(offset)),
            Ok(_) => Ok(()),
            Err(e) => Err(SourceError::io(e).at_path(&self.path).at_offset(offset)),
        }
    }

    fn truncated(&self, end: u64) -> SourceError {
        let message =
            format!("the file ends at byte {end}, it had {} bytes when it was opened", self.bytes());
        SourceError::new(SourceErrorKind::Truncated, message).at_path(&self.path)
    }
}
