//! A file of a map, wherever it is.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use vram_types::SourceError;

use super::elsewhere::Elsewhere;
use super::handle::Wrap;
use super::local::LocalFile;
use super::map::FileMap;
use super::mode::{FileReading, ReadMode, ReadPath};
use super::piece::Piece;
use super::storage::Storage;
use super::terms::Terms;

/// A file of a map.
pub(crate) enum StoredFile {
    /// Read in the ways of this machine.
    Local(Box<LocalFile>),
    /// Read by its storage.
    Elsewhere(Elsewhere),
}

/// The same, borrowed.
#[derive(Clone, Copy)]
pub(crate) enum FileRef<'a> {
    Local(&'a LocalFile),
    Elsewhere(&'a Elsewhere),
}

impl StoredFile {
    /// Opens a file of this machine that will be read in that mode.
    pub(crate) fn open(path: &Path, mode: ReadMode, wrap: Option<&Wrap>) -> Result<StoredFile, SourceError> {
        Ok(StoredFile::Local(Box::new(LocalFile::open(path, mode, wrap)?)))
    }

    pub(crate) fn of_storage(storage: Arc<dyn Storage>) -> Result<StoredFile, SourceError> {
        Ok(StoredFile::Elsewhere(Elsewhere::open(storage)?))
    }

    pub(crate) fn as_ref(&self) -> FileRef<'_> {
        match self {
            StoredFile::Local(file) => FileRef::Local(file),
            StoredFile::Elsewhere(file) => FileRef::Elsewhere(file),
        }
    }

    pub(crate) fn local(&self) -> Option<&LocalFile> {
        self.as_ref().local()
    }

    pub(crate) fn local_mut(&mut self) -> Option<&mut LocalFile> {
        match self {
            StoredFile::Local(file) => Some(file),
            StoredFile::Elsewhere(_) => None,
        }
    }

    /// What formats read it by.
    pub(crate) fn storage(&self) -> &dyn Storage {
        match self {
            StoredFile::Local(file) => &**file,
            StoredFile::Elsewhere(file) => file.storage(),
        }
    }

    /// Length when it was opened.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            StoredFile::Local(file) => file.bytes(),
            StoredFile::Elsewhere(file) => file.bytes(),
        }
    }

    pub(crate) fn describe(&self) -> Cow<'_, str> {
        self.storage().describe()
    }

    /// Names the file in an error.
    pub(crate) fn named(&self, error: SourceError) -> SourceError {
        self.storage().named(error)
    }

    pub(crate) fn map(&self) -> Option<&FileMap> {
        self.local()?.map()
    }

    /// What direct reads are aligned to; 1 where there are none.
    pub(crate) fn direct_alignment(&self) -> usize {
        self.local().map_or(1, LocalFile::direct_alignment)
    }

    /// In which way it is read, and why.
    pub(crate) fn reading(&self, mode: ReadMode) -> FileReading {
        match self {
            StoredFile::Local(file) => file.reading(mode),
            StoredFile::Elsewhere(_) => FileReading {
                file_system: None,
                path: ReadPath::Storage,
                why: "opened as a storage".to_owned(),
                alignment: None,
                cached_bytes: None,
            },
        }
    }

    /// Fails if the file has been written to since it was opened.
    pub(crate) fn unchanged(&self) -> Result<(), SourceError> {
        match self {
            StoredFile::Local(file) => file.unchanged(),
            StoredFile::Elsewhere(file) => file.unchanged(),
        }
    }
}

impl<'a> FileRef<'a> {
    pub(crate) fn local(self) -> Option<&'a LocalFile> {
        match self {
            FileRef::Local(file) => Some(file),
            FileRef::Elsewhere(_) => None,
        }
    }

    /// Reads a piece of this file on the calling thread. The caller has checked that it fits.
    pub(super) fn read(self, terms: &Terms<'_>, piece: Piece<'_>) -> Result<(), SourceError> {
        match self {
            FileRef::Local(file) => file.read(terms, piece),
            FileRef::Elsewhere(file) => file.read(terms, piece),
        }
    }
}
