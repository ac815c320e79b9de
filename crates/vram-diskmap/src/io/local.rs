//! A file of a checkpoint, and proof that it is still the one that was opened.

use std::borrow::Cow;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use vram_types::{SourceError, SourceErrorKind};

use super::cache::{self, Cached, cached};
use super::direct::{DEFAULT_ALIGNMENT, Direct};
use super::handle::{Handle, Wrap};
use super::map::FileMap;
use super::mode::ReadMode;
use super::mount::Mount;
use super::piece::Piece;
use super::read_at::{ReadAt, fill};
use super::storage::{Storage, truncated};

/// An open file of a checkpoint.
pub(crate) struct LocalFile {
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

impl LocalFile {
    /// Opens a file that will be read in that mode.
    pub(crate) fn open(path: &Path, mode: ReadMode, wrap: Option<&Wrap>) -> Result<LocalFile, SourceError> {
        let at = |e: io::Error| SourceError::io(e).at_path(path);
        // Before it is opened, too, since opening a pipe waits for somebody who writes to it.
        regular(&std::fs::metadata(path).map_err(at)?, path)?;
        let file = File::open(path).map_err(at)?;
        let meta = file.metadata().map_err(at)?;
        regular(&meta, path)?;
        let identity = Identity::of(&meta);
        let mount = Mount::of(&file, identity.node.0);
        if mode != ReadMode::Buffered {
            cache::end_read_ahead(&file);
        }
        let plain = Handle::new(file, path, wrap).map_err(at)?;
        let direct = Direct::new(wrap.cloned());
        Ok(LocalFile { path: path.to_owned(), plain, identity, direct, map: None, mount })
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

    /// Reads through the page cache what it does not hold, and lets it forget that again.
    pub(super) fn pass_through(&self, mut piece: Piece<'_>) -> io::Result<usize> {
        let (offset, len) = (piece.offset, piece.len as u64);
        let got = self.fill(piece.wanted(), offset);
        cache::forget(self.plain.file(), offset, len);
        got
    }

    /// Fails if the file has been written to since it was opened.
    ///
    /// Asked after the bytes have been read: what was read before a change and what was read after
    /// it are both refused.
    pub(crate) fn unchanged(&self) -> Result<(), SourceError> {
        let meta = self.plain.file().metadata().map_err(|e| SourceError::io(e).at_path(&self.path))?;
        let now = Identity::of(&meta);
        if now.bytes < self.identity.bytes {
            return Err(truncated(self, now.bytes));
        }
        if now != self.identity {
            let message = "the file has changed since it was opened";
            return Err(SourceError::new(SourceErrorKind::Invalid, message).at_path(&self.path));
        }
        Ok(())
    }

    /// Fills as much of `dst` through the page cache as there is.
    pub(super) fn fill(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        fill(|dst, offset| self.plain.read_at(dst, offset), dst, offset)
    }
}

/// As formats read it: through the page cache.
impl Storage for LocalFile {
    fn bytes(&self) -> u64 {
        self.identity.bytes
    }

    fn describe(&self) -> Cow<'_, str> {
        self.path.to_string_lossy()
    }

    fn read_at(&self, dst: &mut [u8], offset: u64) -> io::Result<usize> {
        self.plain.read_at(dst, offset)
    }

    fn named(&self, error: SourceError) -> SourceError {
        error.at_path(&self.path)
    }
}

/// Fails for anything but a regular file: nothing else can be read in any order.
fn regular(meta: &Metadata, path: &Path) -> Result<(), SourceError> {
    if meta.is_file() {
        return Ok(());
    }
    let what = if meta.is_dir() { "a folder" } else { "a pipe, a device or a socket" };
    let message = format!("{what}, not a regular file: copy its contents to a file first");
    Err(SourceError::new(SourceErrorKind::Invalid, message).at_path(path))
}
