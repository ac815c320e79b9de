//! Reading tensors whose bytes are not those of the file: other dtypes, strides, byte orders, quantised blocks.

use std::ops::Range;

use vram_types::{SourceError, SourceErrorKind, TypeError};

use crate::convert;
use crate::diskmap::{DiskMap, TensorInfo};
use crate::read_many::Until;
use crate::strides::{self, Strides};

/// Bytes that are decoded at a time: they stay in the processor's cache.
const PIECE_BYTES: u64 = 256 << 10;
/// The same for what is read as it lies and then converted, or gathered from strides, where long pieces make long reads.
const CONVERT_BYTES: u64 = 1 << 20;
const GATHER_BYTES: u64 = 8 << 20;
/// Pieces are multiples of this: whole blocks of every block type, whole bytes of every dtype.
pub(crate) const UNIT_ELEMENTS: u64 = 256;

/// Memory that is used piece after piece.
#[derive(Default)]
struct Scratch {
    /// Bytes as they are in the file.
    raw: Raw,
    /// Elements of the stored dtype.
    decoded: Vec<u8>,
    /// Elements of the dtype asked for.
    cast: Vec<u8>,
}

/// Memory for bytes of a file, with slack around them.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    /// Memory for `len` bytes from `offset`, and where in it they go so that a direct read needs no copy.
    fn room(&mut self, offset: u64, len: usize) -> (&mut [u8], usize) {
        const SECTOR: usize = 4096;
        if self.0.len() < len + 2 * SECTOR {
            self.0.resize(len + 2 * SECTOR, 0);
        }
        let base = self.0.as_ptr() as usize % SECTOR;
        let at = (offset as usize % SECTOR + SECTOR - base) % SECTOR;
        (&mut self.0[..], at)
    }
}

impl DiskMap {
    /// Reads `dst` from byte `offset` of a tensor that is computed. The caller has checked the bounds.
    pub(crate) fn read_computed(
        &self,
        info: &TensorInfo,
        offset: u64,
        dst: &mut [u8],
        until: Until<'_>,
    ) -> Result<(), SourceError> {
        let end = offset + dst.len() as u64;
        let to = info.meta.dtype();
        let most = match (info.strides, info.block) {
            (Some(_), _) => GATHER_BYTES,
            (None, Some(_)) => PIECE_BYTES,
            (None, None) => CONVERT_BYTES,
        };
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
            if begin >= offset && stop <= end {
                let part = &mut dst[(begin - offset) as usize..(stop - offset) as usize];
                self.compute(info, first..last, &mut scratch, part, until)?;
            } else {
                let mut all = std::mem::take(&mut scratch.cast);
                all.resize((stop - begin) as usize, 0);
                self.compute(info, first..last, &mut scratch, &mut all, until)?;
                let inside = offset.max(begin)..end.min(stop);
                dst[(inside.start - offset) as usize..(inside.end - offset) as usize]
                    .copy_from_slice(&all[(inside.start - begin) as usize..(inside.end - begin) as usize]);
                scratch.cast = all;
            }
            first = last;
        }
        Ok(())
    }

    /// Fills `dst` with elements as they are asked for.
    fn compute(
        &self,
        info: &TensorInfo,
        elements: Range<u64>,
        scratch: &mut Scratch,
        dst: &mut [u8],
        until: Until<'_>,
    ) -> Result<(), SourceError> {
        if !info.is_converted() {
            return self.decode(info, elements, &mut scratch.raw, dst, until);
        }
        let begin = info.decoded_bytes(elements.start);
        let len = (info.decoded_bytes(elements.end) - begin) as usize;
        let stored = if info.block.is_none() && info.strides.is_none() {
            let (memory, at) = scratch.raw.room(info.offset + begin, len);
            self.read_file(info.file, info.offset + begin, memory, (at, len), until)?;
            &memory[at..at + len]
        } else {
            scratch.decoded.resize(len, 0);
            self.decode(info, elements, &mut scratch.raw, &mut scratch.decoded, until)?;
            &scratch.decoded[..]
        };
        convert::cast(stored, info.stored, dst, info.meta.dtype())
            .map_err(|e| cannot(info, e, self.names.get(info.name)))
    }

    /// Reads elements as the stored dtype has them. `raw` is memory to work with.
    fn decode(
        &self,
        info: &TensorInfo,
        elements: Range<u64>,
        raw: &mut Raw,
        dst: &mut [u8],
        until: Until<'_>,
    ) -> Result<(), SourceError> {
        if let Some(block) = info.block {
            let begin = elements.start / block.elements() * block.bytes();
            let end = elements.end.div_ceil(block.elements()) * block.bytes();
            let len = (end - begin) as usize;
            let (memory, at) = raw.room(info.offset + begin, len);
            self.read_file(info.file, info.offset + begin, memory, (at, len), until)?;
            block.decode(&memory[at..at + len], dst);
            return Ok(());
        }
        if let Some(strides) = self.strides_of(info) {
            return self.gather(info, strides, elements, raw, dst, until);
        }
        let len = dst.len();
        self.read_file(info.file, info.offset + info.decoded_bytes(elements.start), dst, (0, len), until)
    }

    fn gather(
        &self,
        info: &TensorInfo,
        strides: &Strides,
        elements: Range<u64>,
        raw: &mut Raw,
        dst: &mut [u8],
        until: Until<'_>,
    ) -> Result<(), SourceError> {
        let element = info.decoded_bytes(1);
        for part in strides::parts(info.meta.shape(), &strides.steps, element, elements) {
            for group in part.groups() {
                let len = (group.bytes.end - group.bytes.start) as usize;
                let offset = info.offset + group.bytes.start;
                let (memory, at) = raw.room(offset, len);
                self.read_file(info.file, offset, memory, (at, len), until)?;
                let bytes = &memory[at..at + len];
                for line in group.lines() {
                    strides::scatter(line, element as usize, bytes, group.bytes.start, dst);
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
