//! Reading tensors whose bytes are not those of the file: other dtypes, strides, byte orders, quantised blocks.

use std::ops::Range;

use vram_types::{SourceError, SourceErrorKind, TypeError};

use crate::convert;
use crate::diskmap::{DiskMap, TensorInfo};
use crate::strides::{self, Strides};

/// Bytes that are converted or decoded at a time: they stay in the processor's cache.
const PIECE_BYTES: u64 = 256 << 10;
/// The same for what is gathered from strides, where long pieces make long reads.
const GATHER_BYTES: u64 = 8 << 20;
/// Pieces are multiples of this: whole blocks of every block type, whole bytes of every dtype.
const UNIT_ELEMENTS: u64 = 256;

/// Memory that is used piece after piece.
#[derive(Default)]
struct Scratch {
    /// Bytes as they are in the file.
    raw: Vec<u8>,
    /// Elements of the stored dtype.
    decoded: Vec<u8>,
    /// Elements of the dtype asked for.
    cast: Vec<u8>,
}

impl DiskMap {
    /// Reads `dst` from byte `offset` of a tensor that is computed. The caller has checked the bounds.
    pub(crate) fn read_computed(
        &self,
        info: &TensorInfo,
        offset: u64,
        dst: &mut [u8],
    ) -> Result<(), SourceError> {
        let end = offset + dst.len() as u64;
        let to = info.meta.dtype();
        let most = if info.strides.is_some() { GATHER_BYTES } else { PIECE_BYTES };
        let unit_bytes = to.bytes_of(UNIT_ELEMENTS).unwrap_or(UNIT_ELEMENTS);
        let piece = (most / unit_bytes).max(1) * UNIT_ELEMENTS;
        let mut first = offset / unit_bytes * UNIT_ELEMENTS;
        let mut scratch = Scratch::default();
        // Where the dtype needs no whole number of bytes for a part, the tensor's own size does.
        let bytes = |elements: u64| to.bytes_of(elements).unwrap_or(info.meta.bytes());
        while bytes(first) < end {
            let whole = info.meta.elements();
            let last = (end.div_ceil(unit_bytes) * UNIT_ELEMENTS).min(first + piece).min(whole);
            let (begin, stop) = (bytes(first), bytes(last));
            let inside = begin >= offset && stop <= end;
            if inside && !info.is_converted() {
                let part = &mut dst[(begin - offset) as usize..(stop - offset) as usize];
                self.decode(info, first..last, &mut scratch.raw, part)?;
            } else {
                self.decode_and_cast(info, first..last, &mut scratch)?;
                let (from, until) = (offset.max(begin), end.min(stop));
                let source = if info.is_converted() { &scratch.cast } else { &scratch.decoded };
                dst[(from - offset) as usize..(until - offset) as usize]
                    .copy_from_slice(&source[(from - begin) as usize..(until - begin) as usize]);
            }
            first = last;
        }
        Ok(())
    }

    /// Fills `scratch.decoded`, and `scratch.cast` where the tensor is converted.
    fn decode_and_cast(
        &self,
        info: &TensorInfo,
        elements: Range<u64>,
        scratch: &mut Scratch,
    ) -> Result<(), SourceError> {
        let stored = info.decoded_bytes(elements.end) - info.decoded_bytes(elements.start);
        scratch.decoded.resize(stored as usize, 0);
        self.decode(info, elements.clone(), &mut scratch.raw, &mut scratch.decoded)?;
        if info.is_converted() {
            let to = info.meta.dtype();
            let bytes = to.bytes_of(elements.end - elements.start).unwrap_or(info.meta.bytes());
            scratch.cast.resize(bytes as usize, 0);
            convert::cast(&scratch.decoded, info.stored, &mut scratch.cast, to)
                .map_err(|e| cannot(info, e, self.names.get(info.name)))?;
        }
        Ok(())
    }

    /// Reads elements as the stored dtype has them. `raw` is memory to work with.
    fn decode(
        &self,
        info: &TensorInfo,
        elements: Range<u64>,
        raw: &mut Vec<u8>,
        dst: &mut [u8],
    ) -> Result<(), SourceError> {
        if let Some(block) = info.block {
            let begin = elements.start / block.elements() * block.bytes();
            let end = elements.end.div_ceil(block.elements()) * block.bytes();
            let len = (end - begin) as usize;
            raw.resize(len, 0);
            self.read_file(info.file, info.offset + begin, raw, 0, len)?;
            block.decode(raw, dst);
            return Ok(());
        }
        if let Some(strides) = self.strides_of(info) {
            return self.gather(info, strides, elements, raw, dst);
        }
        let len = dst.len();
        self.read_file(info.file, info.offset + info.decoded_bytes(elements.start), dst, 0, len)
    }

    fn gather(
        &self,
        info: &TensorInfo,
        strides: &Strides,
        elements: Range<u64>,
        raw: &mut Vec<u8>,
        dst: &mut [u8],
    ) -> Result<(), SourceError> {
        let element = info.decoded_bytes(1);
        for part in strides::parts(info.meta.shape(), &strides.steps, element, elements) {
            for group in part.groups() {
                let len = (group.bytes.end - group.bytes.start) as usize;
                raw.resize(len, 0);
                self.read_file(info.file, info.offset + group.bytes.start, raw, 0, len)?;
                for line in group.lines() {
                    strides::scatter(line, element as usize, raw, group.bytes.start, dst);
                }
            }
        }
        if strides.swapped {
            strides::swap(dst, info.number_bytes());
        }
        Ok(())
    }
}

pub(crate) fn cannot(info: &TensorInfo, error: TypeError, name: &str) -> SourceError {
    let message = format!("cannot convert {} to {}: {error}", info.stored, info.meta.dtype());
    SourceError::new(SourceErrorKind::Unsupported, message).at_tensor(name).caused_by(error)
}
