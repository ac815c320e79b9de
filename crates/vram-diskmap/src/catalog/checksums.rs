//! Checksums of tensors, as files have them in their metadata.

use std::collections::HashMap;

use vram_types::{FileId, SourceErrorKind};

use crate::catalog::tensor::TensorInfo;
use crate::fault::Fault;
use crate::format::safetensors::header;

/// Where in the metadata the checksums are: a CRC-32 of eight hexadecimal digits for each tensor
/// that is not empty.
pub(crate) const CHECKSUMS: &str = "vram.crc32";

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
