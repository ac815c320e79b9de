//! Tensors that are computed, cut into parts for several threads.

use vram_types::{ReadOptions, SourceError};

use crate::catalog::map::DiskMap;
use crate::catalog::tensor::TensorInfo;
use crate::io;
use crate::read::computed::UNIT_ELEMENTS;

/// Bytes of a computed tensor that one thread computes at a time.
const PART_BYTES: u64 = 4 << 20;

/// A part of a tensor whose bytes are computed: from byte `offset` of it.
pub(crate) struct Part<'a> {
    pub(crate) info: &'a TensorInfo,
    pub(crate) offset: u64,
    pub(crate) dst: &'a mut [u8],
}

impl<'a> Part<'a> {
    /// Cuts it into what several threads compute, unless it is gathered: then each part would read
    /// most of the tensor.
    fn cut(mut self, parts: &mut Vec<Part<'a>>) {
        let unit = self.info.dtype().bytes_of(UNIT_ELEMENTS).filter(|_| !self.info.is_gathered());
        while let (Some(unit), true) = (unit, self.dst.len() as u64 > PART_BYTES + PART_BYTES / 4) {
            let end = (self.offset + PART_BYTES) / unit * unit;
            let (front, back) = self.dst.split_at_mut((end - self.offset) as usize);
            parts.push(Part { info: self.info, offset: self.offset, dst: front });
            self = Part { info: self.info, offset: end, dst: back };
        }
        parts.push(self);
    }
}

impl DiskMap {
    /// Reads tensors that are computed, by several threads.
    pub(crate) fn read_parts(&self, wanted: Vec<Part<'_>>, options: &ReadOptions) -> Result<(), SourceError> {
        let bytes = wanted.iter().map(|part| part.dst.len()).sum();
        let mut parts = Vec::with_capacity(wanted.len());
        wanted.into_iter().for_each(|part| part.cut(&mut parts));
        io::share(parts, bytes, io::THREADS, |Part { info, offset, dst }| {
            options.check()?;
            self.read_computed(info, offset, dst, options)
        })
    }
}
