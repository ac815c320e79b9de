//! Which format a file is of, by how it begins, and reading what it says of its tensors.

use vram_types::{FileId, SourceError, SourceErrorKind};

use crate::contents::Contents;
use crate::header::LENGTH_BYTES;
use crate::io::StoredFile;
use crate::names::Names;
use crate::{gguf, safetensors, torch};

/// How files are read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) lenient: bool,
    pub(crate) raw_blocks: bool,
}

/// Reads headers and nothing else. The formats are told apart by the first eight bytes: as the length of a safetensors
/// header, those of the others are far beyond what that format allows.
pub(crate) fn read(
    file: &StoredFile,
    id: FileId,
    reading: Reading,
    names: &mut Names,
) -> Result<Contents, SourceError> {
    if file.bytes() < LENGTH_BYTES as u64 {
        let message = format!("{} bytes are too few for a checkpoint", file.bytes());
        return Err(SourceError::new(SourceErrorKind::Truncated, message).at_path(file.path()).at_offset(0));
    }
    let mut first = [0; LENGTH_BYTES];
    file.read_plain(&mut first, 0)?;
    let read = if first.starts_with(b"GGUF") {
        gguf::read(file, id, reading, names)?
    } else if first.starts_with(b"PK\x03\x04") && first[4..] != [0; 4] {
        torch::read_archive(file, id, names)?
    } else if torch::MAGIC.starts_with(&first) {
        torch::read_legacy(file, id, names)?
    } else {
        return safetensors::read(file, id, first, reading, names);
    };
    let mut contents = Contents { bytes_read: read.bytes_read + LENGTH_BYTES as u64, ..read };
    let strides = std::mem::take(&mut contents.strides);
    contents
        .tensors
        .sort_by(|a, b| crate::DiskMap::order(a, &strides).cmp(&crate::DiskMap::order(b, &strides)));
    contents.strides = strides;
    Ok(contents)
}
