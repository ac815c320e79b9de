//! Reading tensors whose bytes are not those of the file: other dtypes, strides, byte orders,
//! quantised blocks.

use std::ops::Range;

use vram_types::cast::cast_serial;
use vram_types::{ReadOptions, SourceError, SourceErrorKind, TensorMeta, TypeError};

use crate::catalog::map::DiskMap;
use crate::catalog::tensor::TensorInfo;
use crate::io::HUGE_PAGE;
use crate::read::strides::{self, Strides};

/// Bytes that are converted at a time: they stay in the processor's cache.
const PIECE_BYTES: u64 = 256 << 10;
/// The same for what is gathered from strides, where long pieces make long reads.
const GATHER_BYTES: u64 = 8 << 20;
/// Bytes of a file that are read at a time to be converted: they fit a huge page with the sectors
/// at their ends.
const STORED_BYTES: u64 = (HUGE_PAGE - 2 * SECTOR) as u64;
/// Pieces are multiples of this: whole blocks of every block type, whole bytes of every dtype.
pub(crate) const UNIT_ELEMENTS: u64 = 256;
/// What direct reads are aligned to.
const SECTOR: usize = 4096;

/// What is wanted of a tensor: `dst` begins at byte `offset` of it.
struct Wanted<'a> {
    meta: &'a TensorMeta,
    offset: u64,
    dst: &'a mut [u8],
    /// For pieces of which only a part is wanted.
    whole: Vec<u8>,
}

impl Wanted<'_> {
    /// Where an element begins, or the last one ends.
    fn bytes(&self, element: u64) -> u64 {
        // Where the dtype needs no whole number of bytes for a part, the tensor's own size does.
        self.meta.dtype().bytes_of(element).unwrap_or(self.meta.bytes())
    }

    /// The elements that are needed, in whole units.
    fn elements(&self) -> Range<u64> {
        let unit = self.bytes(UNIT_ELEMENTS).max(1);
        let end = self.offset + self.dst.len() as u64;
        let last = end.div_ceil(unit) * UNIT_ELEMENTS;
        self.offset / unit * UNIT_ELEMENTS..last.min(self.meta.elements())
    }

    /// Gives `fill` the memory of some of those elements, and keeps what is wanted of it.
    fn fill(
        &mut self,
        elements: Range<u64>,
        fill: impl FnOnce(&mut [u8]) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let (begin, stop) = (self.bytes(elements.start), self.bytes(elements.end));
        let end = self.offset + self.dst.len() as u64;
        if begin >= self.offset && stop <= end {
            return fill(&mut self.dst[(begin - self.offset) as usize..(stop - self.offset) as usize]);
        }
        self.whole.resize((stop - begin) as usize, 0);
        fill(&mut self.whole)?;
        let inside = self.offset.max(begin)..end.min(stop);
        self.dst[(inside.start - self.offset) as usize..(inside.end - self.offset) as usize]
            .copy_from_slice(&self.whole[(inside.start - begin) as usize..(inside.end - begin) as usize]);
        Ok(())
    }
}

/// Memory for bytes of a file, with slack around them, that is used group after group.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    /// Memory for `len` bytes from `offset`, and where in it they go so that a direct read needs
    /// no copy.
    fn room(&mut self, offset: u64, len: usize) -> (&mut [u8], usize) {
        if self.0.len() < len + 2 * SECTOR {
            self.0.resize(len + 2 * SECTOR, 0);
        }
        let base = self.0.as_ptr() as usize % SECTOR;
        let at = (offset as usize % SECTOR + SECTOR - base) % SECTOR;
        (&mut self.0[..], at)
    }
}

/// Cuts elements into pieces of at most so many, a multiple of the unit.
fn pieces(elements: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let step = (most / UNIT_ELEMENTS).max(1) * UNIT_ELEMENTS;
    let end = elements.end;
    elements.step_by(step as usize).map(move |first| first..(first + step).min(end))
}

impl DiskMap {
    /// Reads `dst` from byte `offset` of a tensor that is computed. The caller has checked the
    /// bounds.
    pub(crate) fn read_computed(
        &self,
        info: &TensorInfo,
        offset: u64,
        dst: &mut [u8],
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let wanted = &mut Wanted { meta: &info.meta, offset, dst, whole: Vec::new() };
        match self.strides_of(info) {
            Some(strides) => self.read_gathered(info, strides, wanted, options),
            None => self.read_converted(info, wanted, options),
        }
    }

    /// Reads long runs of the file and decodes and casts them in pieces.
    fn read_converted(
        &self,
        info: &TensorInfo,
        wanted: &mut Wanted<'_>,
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let mut decoded = Vec::new();
        let most = STORED_BYTES / info.stored_before(UNIT_ELEMENTS).max(1) * UNIT_ELEMENTS;
        let widest = wanted.bytes(UNIT_ELEMENTS).max(info.decoded_bytes(UNIT_ELEMENTS)).max(1);
        for run in pieces(wanted.elements(), most) {
            let begin = info.stored_before(run.start);
            let len = (info.stored_before(run.end) - begin) as usize;
            let room = (len + 2 * SECTOR).max(HUGE_PAGE);
            self.pool.with(room, HUGE_PAGE, |memory| {
                let at = ((info.offset + begin) % SECTOR as u64) as usize;
                self.read_file(info.file, info.offset + begin, memory, (at, len), options)?;
                pieces(run, PIECE_BYTES / widest * UNIT_ELEMENTS).try_for_each(|piece| {
                    let part = at + (info.stored_before(piece.start) - begin) as usize
                        ..at + (info.stored_before(piece.end) - begin) as usize;
                    let stored = &memory[part];
                    let len = (info.decoded_bytes(piece.end) - info.decoded_bytes(piece.start)) as usize;
                    wanted.fill(piece, |dst| match info.block {
                        None => self.cast(info, stored, dst),
                        Some(block) if !info.is_converted() => {
                            block.decode(stored, dst).map_err(|e| cannot(info, e, self.names.get(info.name)))
                        }
                        Some(block) => {
                            decoded.resize(len, 0);
                            let decoding = block.decode(stored, &mut decoded);
                            decoding.map_err(|e| cannot(info, e, self.names.get(info.name)))?;
                            self.cast(info, &decoded, dst)
                        }
                    })
                })
            })?;
        }
        Ok(())
    }

    /// Gathers elements from where they lie apart, and casts them.
    fn read_gathered(
        &self,
        info: &TensorInfo,
        strides: &Strides,
        wanted: &mut Wanted<'_>,
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let (mut raw, mut gathered) = (Raw::default(), Vec::new());
        let most = GATHER_BYTES / wanted.bytes(UNIT_ELEMENTS).max(1) * UNIT_ELEMENTS;
        for piece in pieces(wanted.elements(), most) {
            wanted.fill(piece.clone(), |dst| {
                if !info.is_converted() {
                    return self.gather(info, strides, piece, &mut raw, dst, options);
                }
                let len = info.decoded_bytes(piece.end) - info.decoded_bytes(piece.start);
                gathered.resize(len as usize, 0);
                self.gather(info, strides, piece, &mut raw, &mut gathered, options)?;
                self.cast(info, &gathered, dst)
            })?;
        }
        Ok(())
    }

    fn cast(&self, info: &TensorInfo, stored: &[u8], dst: &mut [u8]) -> Result<(), SourceError> {
        cast_serial(stored, info.stored, dst, info.meta.dtype())
            .map_err(|e| cannot(info, e, self.names.get(info.name)))
    }

    fn gather(
        &self,
        info: &TensorInfo,
        strides: &Strides,
        elements: Range<u64>,
        raw: &mut Raw,
        dst: &mut [u8],
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let element = info.decoded_bytes(1);
        for part in strides::parts(info.meta.shape(), &strides.steps, element, elements) {
            for group in part.groups() {
                let len = (group.bytes.end - group.bytes.start) as usize;
                let offset = info.offset + group.bytes.start;
                let (memory, at) = raw.room(offset, len);
                self.read_file(info.file, offset, memory, (at, len), options)?;
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
