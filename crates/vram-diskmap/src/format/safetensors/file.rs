//! Reading the header of a safetensors file.

use vram_types::{FileId, SourceError};

use crate::catalog::contents::Contents;
use crate::catalog::names::Names;
use crate::catalog::tensor::TensorInfo;
use crate::fault::Fault;
use crate::format::reading::Reading;
use crate::format::safetensors::header::{self, Header, LENGTH_BYTES};
use crate::io::{Storage, read_exact};

/// Reads exactly the header: its length is in `first`.
pub(crate) fn read(
    file: &dyn Storage,
    id: FileId,
    first: [u8; LENGTH_BYTES],
    reading: Reading,
    names: &mut Names,
) -> Result<Contents, SourceError> {
    let failed = |f: Fault| file.named(f.into_error());
    // No longer than the file, so the allocation below is of bytes that exist.
    let bytes = header::length(first, file.bytes()).map_err(failed)?;
    let mut json = vec![0; bytes as usize];
    read_exact(file, &mut json, LENGTH_BYTES as u64)?;
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
