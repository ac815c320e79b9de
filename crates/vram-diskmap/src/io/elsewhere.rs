//! Files of a map that are in a storage of the caller's.

use std::sync::Arc;

use vram_types::{SourceError, SourceErrorKind};

use super::piece::Piece;
use super::storage::{Storage, StorageRead, truncated};
use super::terms::Terms;

/// A storage, and proof that it is still what was opened.
pub(crate) struct Elsewhere {
    storage: Arc<dyn Storage>,
    bytes: u64,
    identity: Box<[u8]>,
}

impl Elsewhere {
    pub(super) fn open(storage: Arc<dyn Storage>) -> Result<Elsewhere, SourceError> {
        let identity = storage.identity().map_err(|e| storage.named(SourceError::io(e)))?;
        let (bytes, identity) = (storage.bytes(), identity.into());
        Ok(Elsewhere { storage, bytes, identity })
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Length when it was opened.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn read(&self, terms: &Terms<'_>, mut piece: Piece<'_>) -> Result<(), SourceError> {
        let offset = piece.offset;
        self.read_many(terms, &mut [StorageRead { offset, dst: piece.wanted() }])
    }

    pub(super) fn read_many(
        &self,
        terms: &Terms<'_>,
        reads: &mut [StorageRead<'_>],
    ) -> Result<(), SourceError> {
        self.storage
            .read_many(reads, terms.options)
            .map_err(|e| if e.file().is_some() { e } else { self.storage.named(e) })
    }

    /// Fails if the storage has changed since it was opened.
    pub(super) fn unchanged(&self) -> Result<(), SourceError> {
        let named = |e| self.storage.named(e);
        if self.storage.bytes() < self.bytes {
            return Err(truncated(self.storage(), self.storage.bytes()));
        }
        if *self.storage.identity().map_err(|e| named(SourceError::io(e)))? != *self.identity {
            let message = "the file has changed since it was opened";
            return Err(named(SourceError::new(SourceErrorKind::Invalid, message)));
        }
        Ok(())
    }
}
