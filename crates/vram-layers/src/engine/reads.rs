//! The reads that fill a slot.

use std::ops::Range;
use std::sync::Arc;

use vram_types::{FileId, ReadOptions, ReadRequest, ReadTarget, SourceError, WeightSource};

use crate::plan::partition::Unit;
use crate::spec::Layer;

/// Gaps between tensors up to this size are copied along, because another copy takes longer.
const GAP: u64 = 4096;

/// One read: bytes of a slot, and where they come from.
pub(super) struct Read {
    wanted: Range<u64>,
    /// The part of the slot that only this read writes; a source may overwrite unwanted bytes in it.
    own: Range<u64>,
    stored: Stored,
}

/// Where bytes are stored.
enum Stored {
    File { file: FileId, offset: u64 },
    Tensor { name: Arc<str>, offset: u64 },
}

impl Read {
    /// The bytes of the slot that it has to fill.
    pub(super) fn wanted(&self) -> Range<u64> {
        self.wanted.clone()
    }

    /// The part of the slot that only this read writes. The parts are adjacent and start at 0.
    pub(super) fn own(&self) -> Range<u64> {
        self.own.clone()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.wanted.end - self.wanted.start
    }

    /// Reads to `dst`, beginning at byte `at`.
    pub(super) fn perform(
        &self,
        source: &dyn WeightSource,
        dst: &mut [u8],
        at: u64,
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        let target = match &self.stored {
            Stored::File { file, offset } => ReadTarget::File { file: *file, offset: *offset },
            Stored::Tensor { name, offset } => ReadTarget::Tensor { name, offset: *offset },
        };
        source.read_many(&mut [ReadRequest { target, bytes: self.bytes(), dst, at: at as usize }], options)
    }

    /// The file or tensor and the offset there, for errors.
    pub(super) fn stored(&self) -> (Option<FileId>, Option<&str>, u64) {
        match &self.stored {
            Stored::File { file, offset } => (Some(*file), None, *offset),
            Stored::Tensor { name, offset } => (None, Some(name), *offset),
        }
    }
}

/// The reads of a unit, in pieces of at most `piece` bytes.
pub(super) fn pieces(unit: &Unit, layers: &[Layer], piece: u64) -> Vec<Read> {
    let mut pieces: Vec<Read> = Vec::new();
    let mut push = |wanted: Range<u64>, end: u64, stored| {
        let start = pieces.last().map_or(0, |before| before.own.end);
        pieces.push(Read { wanted, own: start..end, stored });
    };
    for extent in &unit.packing.extents {
        let end = extent.at + extent.bytes;
        let mut start = extent.at;
        let mut cut = extent.span.start;
        while start < end {
            // Cut at multiples of the piece from the span's start, so that pieces stay congruent to sectors.
            cut = cut.saturating_add(piece);
            let stop = cut.min(end);
            let end_of_own = if stop == end { extent.span.end } else { stop };
            let stored = Stored::File { file: extent.file, offset: extent.offset + (start - extent.at) };
            push(start..stop, end_of_own, stored);
            start = stop;
        }
    }
    let tensors: Vec<_> = unit
        .members
        .iter()
        .flat_map(|m| m.tensors.iter().enumerate().map(|(i, placed)| (m.layer, i, placed)))
        .collect();
    for computed in &unit.packing.computed {
        let (layer, index, placed) = tensors[computed.piece];
        let name: Arc<str> = layers[layer.0].tensors[index].name.as_str().into();
        let mut done = 0;
        while done < computed.bytes {
            let bytes = piece.min(computed.bytes - done);
            let start = computed.at + done;
            let stored = Stored::Tensor { name: Arc::clone(&name), offset: placed.within.start + done };
            push(start..start + bytes, start + bytes, stored);
            done += bytes;
        }
    }
    pieces
}

/// The fewest copies for what was read in pieces. Bytes in gaps belong to no tensor, on either side.
pub(super) fn copies(reads: &[Read]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = reads.iter().map(Read::wanted).collect();
    ranges.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(1);
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end + GAP => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}
