//! Holding tensors against the checksums that were written beside them.

use vram_types::{CancelToken, Priority, ReadOptions, SourceError, SourceErrorKind};

use crate::catalog::map::DiskMap;
use crate::catalog::tensor::TensorInfo;

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 4 << 20;

impl DiskMap {
    /// Whether the file says what a tensor's checksum is, so that [`verify`](DiskMap::verify) has
    /// something to hold it to.
    pub fn has_checksum(&self, name: &str) -> bool {
        self.tensor(name).is_some_and(|info| self.checksum(info).is_some())
    }

    /// Reads every tensor that has a checksum and holds it to it. Returns how many have one.
    ///
    /// # Errors
    /// `Invalid`, naming the tensor, where its bytes are not those that were written; the errors
    /// of reading; `Cancelled`.
    pub fn verify(&self, cancel: &CancelToken) -> Result<usize, SourceError> {
        self.verify_all(self.tensors.iter(), cancel)
    }

    /// The same for these tensors alone.
    ///
    /// # Errors
    /// As [`verify`](DiskMap::verify); `NotFound` for a name that is not there.
    pub fn verify_tensors<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
        cancel: &CancelToken,
    ) -> Result<usize, SourceError> {
        let tensors = names.into_iter().map(|name| self.info(name)).collect::<Result<Vec<_>, _>>()?;
        self.verify_all(tensors, cancel)
    }

    fn verify_all<'t>(
        &self,
        tensors: impl IntoIterator<Item = &'t TensorInfo>,
        cancel: &CancelToken,
    ) -> Result<usize, SourceError> {
        let (mut piece, mut verified) = (Vec::new(), 0);
        for info in tensors {
            let Some(expected) = self.checksum(info) else { continue };
            self.verify_one(info, expected, &mut piece, cancel)?;
            verified += 1;
        }
        Ok(verified)
    }

    fn verify_one(
        &self,
        info: &TensorInfo,
        expected: u32,
        piece: &mut Vec<u8>,
        cancel: &CancelToken,
    ) -> Result<(), SourceError> {
        let (range, mut sum) = (info.range(), crc32fast::Hasher::new());
        let options = ReadOptions::default().with_priority(Priority::ReadAhead).with_cancel(cancel);
        let mut at = 0;
        while at < range.bytes {
            options.check()?;
            let len = PIECE_BYTES.min(range.bytes - at) as usize;
            piece.resize(len, 0);
            self.read_file(info.file, range.offset + at, piece, (0, len), &options)?;
            sum.update(piece);
            at += len as u64;
        }
        self.unchanged(info)?;
        let found = sum.finalize();
        if found == expected {
            return Ok(());
        }
        let message = format!("its checksum is {found:08x}, it was written with {expected:08x}");
        Err(self.files[info.file.0 as usize]
            .named(SourceError::new(SourceErrorKind::Invalid, message))
            .at_tensor(self.names.get(info.name))
            .at_offset(range.offset))
    }

    /// An empty tensor has none, and lies where the next one begins.
    fn checksum(&self, info: &TensorInfo) -> Option<u32> {
        let sum = self.checksums.get(&(info.file, info.offset)).copied();
        sum.filter(|_| info.meta.bytes() > 0)
    }
}
