//! Reading the header of a safetensors file.

use vram_types::{FileId, SourceError};

use crate::contents::Contents;
use crate::diskmap::TensorInfo;
use crate::fault::Fault;
use crate::format::Reading;
use crate::header::{self, Header, LENGTH_BYTES};
use crate::io::StoredFile;
use crate::names::Names;

/// Reads exactly the header: its length is in `first`.
pub(crate) fn read(
    file: &StoredFile,
    id: FileId,
    first: [u8; LENGTH_BYTES],
    reading: Reading,
    names: &mut Names,
) -> Result<Contents, SourceError> {
    let failed = |f: Fault| f.into_error().at_path(file.path());
    // No longer than the file, so the allocation below is of bytes that exist.
    let bytes = header::length(first, file.bytes()).map_err(failed)?;
    let mut json = vec![0; bytes as usize];
    file.read_plain(&mut json, LENGTH_BYTES as u64)?;
    let data = LENGTH_BYTES as u64 + bytes;
    let Header { entries, metadata, lenient } =
        header::parse(&json, file.bytes() - data, reading.lenient, names).map_err(failed)?;
    let tensors = entries
        .into_iter()
        .map(|entry| TensorInfo {
            stored: entry.meta.dtype(),
            meta: entry.meta,
            offset: data + entry.begin,
            name: entry.name,
            file: id,
            named_at: entry.named_at,
            strides: None,
            block: None,
            raw: None,
        })
        .collect();
    Ok(Contents { tensors, metadata, lenient, bytes_read: data, ..Contents::default() })
}
