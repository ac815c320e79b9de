//! Tensors on their way from a source to new files: read, cast or decoded, piece by piece.

use std::collections::HashMap;
use std::ops::Range;

use vram_types::cast::cast_serial;
use vram_types::{
    ReadOptions, ReadRequest, ReadTarget, SourceError, SourceErrorKind, TensorMeta, WeightSource,
};

use crate::io::{Aligned, HUGE_PAGE};
use crate::write::decoding::{Brought, Decoding};
use crate::write::fill::{Making, NewTensor, PIECE_UNIT, room};

/// Bytes that are read at a time: they fit a huge page with the sectors at their ends, and those
/// of all threads the processor's caches.
const READ_BYTES: u64 = PIECE_UNIT * 84;

/// A tensor on its way: as it is, and as it is written.
pub(super) struct Way {
    pub(super) from: TensorMeta,
    pub(super) to: TensorMeta,
    /// Where in a file it begins, if it lies there as it is.
    pub(super) place: Option<u64>,
    /// `None` for elements that stand for themselves.
    pub(super) decoding: Option<Decoding>,
}

/// How the pieces of a copy come from its source.
pub(super) struct Copying<'a> {
    pub(super) source: &'a dyn WeightSource,
    pub(super) ways: HashMap<&'a str, Way>,
    pub(super) align: usize,
    pub(super) options: ReadOptions,
}

/// Bytes as the source has them, and where they are in memory that begins at a multiple of a
/// sector.
#[derive(Default)]
pub(super) struct Stored {
    memory: Option<Aligned>,
    at: Range<usize>,
    /// What a weight with companions is multiplied with.
    beside: Brought,
}

impl Stored {
    /// Room for whole sectors, in one huge page where the system has them.
    fn room(&mut self, bytes: usize, align: usize) -> &mut [u8] {
        let (len, align) = (bytes.max(HUGE_PAGE), align.max(HUGE_PAGE));
        if self.memory.as_ref().is_none_or(|memory| !memory.fits(len, align)) {
            self.memory = None;
        }
        &mut self.memory.get_or_insert_with(|| Aligned::new(len, align)).bytes_mut()[..bytes]
    }

    fn bytes(&self) -> &[u8] {
        self.memory.as_ref().and_then(|memory| memory.bytes().get(self.at.clone())).unwrap_or_default()
    }
}

impl Copying<'_> {
    fn way(&self, tensor: &NewTensor) -> Result<&Way, SourceError> {
        self.ways.get(tensor.name.as_str()).ok_or_else(|| {
            SourceError::new(SourceErrorKind::NotFound, "not a tensor of this copy").at_tensor(&tensor.name)
        })
    }
}

impl Making for Copying<'_> {
    type Memory = Stored;

    fn most(&self, tensor: &NewTensor) -> u64 {
        // As many elements as `READ_BYTES` of the wider side hold.
        let Ok(Way { from, to, .. }) = self.way(tensor) else { return PIECE_UNIT };
        let bits = |meta: &TensorMeta| u64::from(meta.dtype().bits());
        let bytes = READ_BYTES * bits(to) / bits(from).max(bits(to)).max(1);
        (bytes / PIECE_UNIT * PIECE_UNIT).max(PIECE_UNIT)
    }

    fn bring(
        &self,
        tensor: &NewTensor,
        at: u64,
        bytes: usize,
        memory: &mut Stored,
    ) -> Result<(), SourceError> {
        let (way, name) = (self.way(tensor)?, &tensor.name);
        let (from, to) = (way.from.dtype(), way.to.dtype());
        // Pieces are whole elements, so both sides have them.
        let elements =
            |bytes: u64| bytes / u64::from(to.layout().block_bytes) * u64::from(to.layout().block_elements);
        let stored = |bytes: u64| match from == to {
            true => bytes,
            false => from.bytes_of(elements(bytes)).unwrap_or(way.from.bytes()),
        };
        let end = at + bytes as u64;
        let Range { start: begin, end } = match &way.decoding {
            Some(decoding) => {
                let elements = elements(at)..elements(end);
                decoding.bring(self.source, elements.clone(), &mut memory.beside, &self.options)?;
                decoding.stored_bytes(elements)
            }
            None => stored(at)..stored(end),
        };
        let len = (end - begin) as usize;
        // Congruent to the file, with room for whole sectors: a direct read then goes straight to
        // where it is cast from.
        let skip = way.place.map_or(0, |place| ((place + begin) % self.align as u64) as usize);
        let room = memory.room((skip + len).next_multiple_of(self.align), self.align);
        let target = ReadTarget::Tensor { name, offset: begin };
        let request = ReadRequest { target, bytes: len as u64, dst: room, at: skip };
        self.source.read_many(&mut [request], &self.options)?;
        memory.at = skip..skip + len;
        Ok(())
    }

    fn make<'m>(
        &self,
        tensor: &NewTensor,
        bytes: usize,
        brought: &'m Stored,
        own: &'m mut Vec<u8>,
    ) -> Result<&'m [u8], SourceError> {
        let way = self.way(tensor)?;
        let (from, to) = (way.from.dtype(), way.to.dtype());
        if let Some(decoding) = &way.decoding {
            let piece = room(own, bytes);
            let decoded = decoding.decode(brought.bytes(), &brought.beside, piece, to);
            decoded.map_err(|e| if e.tensor().is_some() { e } else { e.at_tensor(&tensor.name) })?;
            return Ok(piece);
        }
        if from == to {
            return Ok(brought.bytes());
        }
        let piece = room(own, bytes);
        cast_serial(brought.bytes(), from, piece, to)
            .map_err(|e| SourceError::from(e).at_tensor(&tensor.name))?;
        Ok(piece)
    }
}
