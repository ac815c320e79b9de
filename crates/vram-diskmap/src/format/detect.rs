//! Which format a file is of, by how it begins, and reading what it says of its tensors.

use vram_types::{FileId, SourceError, SourceErrorKind};

use crate::catalog::contents::Contents;
use crate::catalog::names::Names;
use crate::catalog::tensor::order;
use crate::format::others::{self, TELLING_BYTES};
use crate::format::reading::Reading;
use crate::format::safetensors::header::{LENGTH_BYTES, MOST_HEADER_BYTES};
use crate::format::{gguf, safetensors, torch, zip};
use crate::io::{Storage, read_exact};

/// Reads headers and nothing else. The formats are told apart by the first eight bytes: as the
/// length of a safetensors header, those of the others are far beyond what that format allows; but
/// for zip archives, whose next byte is none that a header begins with.
pub(crate) fn read(
    file: &dyn Storage,
    id: FileId,
    reading: Reading,
    names: &mut Names,
) -> Result<Contents, SourceError> {
    let mut first = [0; LENGTH_BYTES];
    if file.bytes() >= LENGTH_BYTES as u64 {
        read_exact(file, &mut first, 0)?;
    } else {
        recognise(file)?;
        let message = format!("{} bytes are too few for a checkpoint", file.bytes());
        return Err(file.named(SourceError::new(SourceErrorKind::Truncated, message)).at_offset(0));
    }
    let read = if first.starts_with(b"GGUF") {
        gguf::read(file, id, reading, names)?
    } else if first.starts_with(b"PK\x03\x04") && !begins_header(file, first)? {
        torch::read_archive(file, id, names)?
    } else if let Some(magic) = legacy(file, first)? {
        torch::read_legacy(file, id, magic, names)?
    } else {
        if u64::from_le_bytes(first) > MOST_HEADER_BYTES {
            recognise(file)?;
        }
        return safetensors::read(file, id, first, reading, names);
    };
    let mut contents = Contents { bytes_read: read.bytes_read + LENGTH_BYTES as u64, ..read };
    let strides = std::mem::take(&mut contents.strides);
    contents.tensors.sort_by(|a, b| order(a, &strides).cmp(&order(b, &strides)));
    contents.strides = strides;
    Ok(contents)
}

/// Whether a file that begins like a zip archive is a safetensors file whose header has that many
/// bytes: 67 MB.
fn begins_header(file: &dyn Storage, first: [u8; LENGTH_BYTES]) -> Result<bool, SourceError> {
    if first[4..] != [0; 4] || file.bytes() <= LENGTH_BYTES as u64 {
        return Ok(false);
    }
    let mut next = [0];
    read_exact(file, &mut next, LENGTH_BYTES as u64)?;
    Ok(next == *b"{" || next[0].is_ascii_whitespace())
}

/// How long the first pickle of an older file of PyTorch is, if it is one.
fn legacy(file: &dyn Storage, first: [u8; LENGTH_BYTES]) -> Result<Option<usize>, SourceError> {
    match first {
        [0x80, 2..=5, ..] => Ok(torch::magic(&beginning(file, torch::MOST_MAGIC_BYTES)?)),
        _ => Ok(None),
    }
}

/// Fails with what the file is, if it is of a kind that is known and not read.
fn recognise(file: &dyn Storage) -> Result<(), SourceError> {
    let begin = beginning(file, TELLING_BYTES)?;
    let before = zip::before(file)?;
    let fault = match before {
        Some(before) => {
            let message = format!(
                "a zip archive behind {before} other bytes, as torch.save never writes it: remove them first"
            );
            Some(crate::fault::Fault::new(SourceErrorKind::Unsupported, message))
        }
        None => others::recognised(&begin, file.bytes()),
    };
    match fault {
        Some(fault) => Err(file.named(fault.into_error())),
        None => Ok(()),
    }
}

fn beginning(file: &dyn Storage, most: usize) -> Result<Vec<u8>, SourceError> {
    let mut begin = vec![0; usize::try_from(file.bytes()).unwrap_or(most).min(most)];
    read_exact(file, &mut begin, 0)?;
    Ok(begin)
}
