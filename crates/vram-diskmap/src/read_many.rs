//! Batches of reads: what is asked for is put together, performed by several threads, and given names where it fails.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use vram_types::{CancelToken, FileId, Priority, SourceError};

use crate::computed::UNIT_ELEMENTS;
use crate::diskmap::{DiskMap, TensorInfo};
use crate::io::{self, Failed, Piece, Span, Task, Terms};

/// How urgent a read is, and what ends it.
pub(crate) type Until<'a> = (Priority, &'a CancelToken);

/// That of a call which its thread waits for and nobody cancels.
pub(crate) fn waited_for() -> Until<'static> {
    static NEVER: LazyLock<CancelToken> = LazyLock::new(CancelToken::new);
    (Priority::Urgent, &NEVER)
}

/// Requests for bytes as they lie in files.
pub(crate) type Pieces<'a> = SmallVec<[Piece<'a>; 1]>;

/// Bytes of a computed tensor that one thread computes at a time.
const PART_BYTES: u64 = 4 << 20;

/// A part of a tensor whose bytes are computed: from byte `offset` of it.
pub(crate) struct Part<'a> {
    pub(crate) info: &'a TensorInfo,
    pub(crate) offset: u64,
    pub(crate) dst: &'a mut [u8],
}

impl<'a> Part<'a> {
    /// Cuts it into what several threads compute, unless it is gathered: then each part would read most of the tensor.
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
    pub(crate) fn read_parts(&self, wanted: Vec<Part<'_>>, until: Until<'_>) -> Result<(), SourceError> {
        let bytes = wanted.iter().map(|part| part.dst.len()).sum();
        let mut parts = Vec::with_capacity(wanted.len());
        wanted.into_iter().for_each(|part| part.cut(&mut parts));
        io::share(parts, bytes, io::THREADS, |Part { info, offset, dst }| {
            until.1.check()?;
            self.read_computed(info, offset, dst, until)
        })
    }

    /// Reads pieces, counts them, and leaves what they read in the slack around them.
    ///
    /// Nothing is on its way any more when this returns, whatever went wrong.
    pub(crate) fn read_pieces(
        &self,
        mut pieces: Pieces<'_>,
        (priority, cancel): Until<'_>,
    ) -> Result<(), SourceError> {
        cancel.check()?;
        let (mode, pool, queue) = (self.mode, &self.pool, &*self.queue);
        let streamed = pieces.iter().map(|p| p.len).sum::<usize>() >= io::LEAST_STREAMED_BYTES;
        let terms = Terms { mode, pool, queue, priority, cancel, streamed };
        if let [piece] = pieces.as_mut_slice()
            && io::is_whole(piece)
        {
            let (place, len) = ((piece.id, piece.offset), piece.len as u64);
            let read = piece.file.read(&terms, piece.reborrow());
            read.map_err(|error| self.named(Some(place), error))?;
            self.bytes_read.fetch_add(len, Ordering::Relaxed);
            return Ok(());
        }
        let spans: Vec<Span> =
            pieces.iter().map(|p| Span { file: p.id, offset: p.offset, bytes: p.len as u64 }).collect();
        let joined = io::join(&spans);
        let mut left: Vec<Option<Piece<'_>>> = pieces.iter_mut().map(|p| Some(p.reborrow())).collect();
        let mut tasks = Vec::with_capacity(joined.groups.len());
        for group in joined.groups {
            let parts: Vec<_> = joined.order[group].iter().filter_map(|&i| left[i].take()).collect();
            match Task::joint(parts) {
                Some(Task::One(piece)) => io::cut(piece, &mut tasks),
                several => tasks.extend(several),
            }
        }
        io::read_all(&terms, tasks).map_err(|Failed { place, error }| self.named(place, *error))?;
        drop(left);
        for copy in &joined.copies {
            copied(&mut pieces, copy);
        }
        let bytes = joined.order.iter().map(|&i| spans[i].bytes).sum();
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// A piece of a file; `None` if there is no such file. The caller has checked that it is inside.
    pub(crate) fn piece<'a>(
        &'a self,
        id: FileId,
        offset: u64,
        dst: &'a mut [u8],
        (at, len): (usize, usize),
    ) -> Option<Piece<'a>> {
        let file = self.files.get(id.0 as usize)?;
        Some(Piece { id, file, offset, dst, at, len })
    }

    /// Names the tensor that was being read.
    fn named(&self, place: Option<(FileId, u64)>, error: SourceError) -> SourceError {
        match place.and_then(|(file, offset)| self.name_at(file, offset)) {
            Some(name) => error.at_tensor(name),
            None => error,
        }
    }
}

/// Gives one request what another one has read.
fn copied(pieces: &mut Pieces<'_>, copy: &io::Copied) {
    let (low, high) = pieces.split_at_mut(copy.from.max(copy.to));
    let (from, to) = match copy.from < copy.to {
        true => (&mut low[copy.from], &mut high[0]),
        false => (&mut high[0], &mut low[copy.to]),
    };
    let at = copy.at as usize;
    let len = to.len;
    to.wanted().copy_from_slice(&from.wanted()[at..at + len]);
}
