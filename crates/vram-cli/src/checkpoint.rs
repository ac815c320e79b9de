//! Opening checkpoints as the arguments ask.

use std::path::Path;

use globset::{Glob, GlobMatcher};
use vram_diskmap::{DiskMap, DiskMapOptions, ReadMode};
use vram_types::SourceError;

use crate::args::Read;

/// Opens a checkpoint for reading in that way.
pub(crate) fn open(options: DiskMapOptions, path: &Path, read: Read) -> Result<DiskMap, SourceError> {
    match read {
        Read::Auto => options.read(ReadMode::Auto).open(path),
        Read::Pread => options.read(ReadMode::Buffered).open(path),
        Read::Direct => options.read(ReadMode::Direct).open(path),
        Read::Uring => options.read(ReadMode::Uring).open(path),
        // SAFETY: only the person who types `--read mmap` can promise that nobody changes the files; the help says so.
        Read::Mmap => unsafe { options.open_mapped(path) },
    }
}

/// A pattern for names of tensors; `*` crosses dots, `{a,b}` is either.
pub(crate) fn pattern(text: &str) -> Result<GlobMatcher, String> {
    Glob::new(text).map(|g| g.compile_matcher()).map_err(|e| e.to_string())
}
