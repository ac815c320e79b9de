//! Checksums of tensors: written beside them, and held against what the file has.

use std::collections::HashMap;

use vram_types::{CancelToken, FileId, Priority, SourceError, SourceErrorKind};

use crate::diskmap::{DiskMap, TensorInfo};
use crate::fault::Fault;
use crate::header;
use crate::write::CHECKSUMS;

/// Bytes that are read at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// CRC-32 of tensors, by where they are. Empty ones have none.
pub(crate) type Checksums = HashMap<(FileId, u64), u32>;

/// Adds those of a file, whose tensors are given in the order of their bytes.
pub(crate) fn collect(
    metadata: &str,
    file: FileId,
    tensors: &[TensorInfo],
    checksums: &mut Checksums,
) -> Result<(), Fault> {
    if !metadata.contains(CHECKSUMS) {
        return Ok(());
    }
    let Some((_, text)) = header::metadata_pairs(metadata).into_iter().find(|(key, _)| key == CHECKSUMS)
    else {
        return Ok(());
    };
    let wrong =
        || Fault::new(SourceErrorKind::Invalid, format!("{CHECKSUMS} is not one checksum for each tensor"));
    let mut words = text.split_ascii_whitespace();
    for info in tensors.iter().filter(|info| info.meta.bytes() > 0) {
        let word = words.next().filter(|word| word.len() == 8).ok_or_else(wrong)?;
        let sum = u32::from_str_radix(word, 16).map_err(|_| wrong())?;
        checksums.insert((file, info.offset), sum);
    }
    if words.next().is_some() { Err(wrong()) } else { Ok(()) }
}

impl DiskMap {
    /// Whether the file says what a tensor's checksum is, so that [`verify`](DiskMap::verify) has something to hold it to.
    pub fn has_checksum(&self, name: &str) -> bool {
        self.tensor(name).is_some_and(|info| self.checksum(info).is_some())
    }

    /// Reads every tensor that has a checksum and holds it to it. Returns how many have one.
    ///
    /// # Errors
    /// `Invalid`, naming the tensor, where its bytes are not those that were written; the errors of reading; `Cancelled`.
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
        let mut at = 0;
        while at < range.bytes {
            cancel.check()?;
            let len = PIECE_BYTES.min(range.bytes - at) as usize;
            piece.resize(len, 0);
            let until = (Priority::ReadAhead, cancel);
            self.read_file(info.file, range.offset + at, piece, (0, len), until)?;
            sum.update(piece);
            at += len as u64;
        }
        self.unchanged(info)?;
        let found = sum.finalize();
        if found == expected {
            return Ok(());
        }
        let message = format!("its checksum is {found:08x}, it was written with {expected:08x}");
        Err(SourceError::new(SourceErrorKind::Invalid, message)
            .at_path(self.files[info.file.0 as usize].path())
            .at_tensor(self.names.get(info.name))
            .at_offset(range.offset))
    }

    /// An empty tensor has none, and lies where the next one begins.
    fn checksum(&self, info: &TensorInfo) -> Option<u32> {
        let sum = self.checksums.get(&(info.file, info.offset)).copied();
        sum.filter(|_| info.meta.bytes() > 0)
    }
}
