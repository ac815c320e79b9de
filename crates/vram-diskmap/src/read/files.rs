//! Bytes as they lie in files: what is asked for is put together, performed by several threads,
//! and given names where it fails.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;
use vram_types::{FileId, ReadOptions, SourceError};

use crate::catalog::map::DiskMap;
use crate::catalog::tensor::TensorInfo;
use crate::io::{self, Failed, Piece, Read, Span, Task, Terms};

/// Requests for bytes as they lie in files.
pub(crate) type Reads<'a> = SmallVec<[Read<'a>; 1]>;

impl DiskMap {
    /// Reads bytes of files, counts them, and leaves what is read in the slack around them.
    ///
    /// Nothing is on its way any more when this returns, whatever went wrong.
    pub(crate) fn read_files(&self, mut reads: Reads<'_>, options: &ReadOptions) -> Result<(), SourceError> {
        options.check()?;
        let (mode, pool, queue) = (self.mode, &self.pool, &*self.queue);
        let streamed = reads.iter().map(|read| read.piece.len).sum::<usize>() >= io::LEAST_STREAMED_BYTES;
        let terms = Terms { mode, pool, queue, options, streamed };
        if let [read] = reads.as_mut_slice()
            && io::is_whole(read)
        {
            let (place, len) = ((read.id, read.piece.offset), read.piece.len as u64);
            let done = io::read_one(&terms, read.reborrow());
            done.map_err(|error| self.named(Some(place), error))?;
            self.bytes_read.fetch_add(len, Ordering::Relaxed);
            return Ok(());
        }
        let spans: Vec<Span> = reads
            .iter()
            .map(|Read { id, piece, .. }| Span { file: *id, offset: piece.offset, bytes: piece.len as u64 })
            .collect();
        let joined = io::join(&spans);
        let mut left: Vec<Option<Read<'_>>> = reads.iter_mut().map(|read| Some(read.reborrow())).collect();
        let mut tasks = Vec::with_capacity(joined.groups.len());
        for group in joined.groups {
            let parts: Vec<_> = joined.order[group].iter().filter_map(|&i| left[i].take()).collect();
            match Task::joint(parts) {
                Some(Task::One(read)) => io::cut(read, &mut tasks),
                several => tasks.extend(several),
            }
        }
        io::read_all(&terms, tasks).map_err(|Failed { place, error }| self.named(place, *error))?;
        drop(left);
        for copy in &joined.copies {
            copied(&mut reads, copy);
        }
        let bytes = joined.order.iter().map(|&i| spans[i].bytes).sum();
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Reads `dst[at..at + len]` from a file, where `part` is `(at, len)`, and counts it. The
    /// caller has checked the bounds.
    pub(crate) fn read_file(
        &self,
        file: FileId,
        offset: u64,
        dst: &mut [u8],
        part: (usize, usize),
        options: &ReadOptions,
    ) -> Result<(), SourceError> {
        self.read_files(self.read_of(file, offset, dst, part).into_iter().collect(), options)
    }

    /// Fails if the tensor's file has been written to since it was opened.
    pub(crate) fn unchanged(&self, info: &TensorInfo) -> Result<(), SourceError> {
        let file = &self.files[info.file.0 as usize];
        file.unchanged().map_err(|e| e.at_tensor(self.names.get(info.name)))
    }

    /// A read of a file; `None` if there is no such file. The caller has checked that it is
    /// inside.
    pub(crate) fn read_of<'a>(
        &'a self,
        id: FileId,
        offset: u64,
        dst: &'a mut [u8],
        (at, len): (usize, usize),
    ) -> Option<Read<'a>> {
        let file = self.files.get(id.0 as usize)?.as_ref();
        Some(Read { id, file, piece: Piece { offset, dst, at, len } })
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
fn copied(reads: &mut Reads<'_>, copy: &io::Copied) {
    let (low, high) = reads.split_at_mut(copy.from.max(copy.to));
    let (from, to) = match copy.from < copy.to {
        true => (&mut low[copy.from].piece, &mut high[0].piece),
        false => (&mut high[0].piece, &mut low[copy.to].piece),
    };
    let at = copy.at as usize;
    let len = to.len;
    to.wanted().copy_from_slice(&from.wanted()[at..at + len]);
}
