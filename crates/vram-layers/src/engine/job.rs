//! One piece of work for a reader: to read a piece of a unit or the rows of a table, to fault in a window of a map, to
//! bring a unit into host memory, or to copy it from there.

use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use vram_device::{Part, Region, Reservation, Staging, Ticket};
use vram_types::{CancelToken, FileId, HostBytes, Priority, SourceError, SourceErrorKind, WeightSource};

use super::bring::StagingSlot;
use super::fetch::Shared;
use super::slot::Memory;
use crate::observe::{Event, Span};
use crate::partition::Unit;
use crate::spec::Layer;
use crate::sync::Mutex;
use crate::{Error, UnitId};

/// Whose weights a job brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Resident(UnitId),
    Position(u64),
    /// A unit that is not in the trace.
    Stray,
}

pub(crate) struct Job {
    pub(crate) place: Place,
    /// Which load of that place; a job of an earlier one is of no use.
    pub(crate) load: u64,
    /// Of the unit, or of the layer whose rows it brings.
    pub(crate) name: Arc<str>,
    pub(crate) work: Work,
    pub(crate) cancel: CancelToken,
}

pub(crate) enum Work {
    Fill(Fill),
    Rows(Rows),
    Prefault(Arc<dyn HostBytes>),
    Keep(Keep),
    FromHost(FromHost),
}

/// Bytes of a slot and where they come from.
pub(crate) struct Read {
    pub(crate) wanted: Range<u64>,
    pub(crate) from: From,
}

#[derive(Clone)]
pub(crate) enum From {
    File { file: FileId, offset: u64 },
    Tensor { name: Arc<str>, offset: u64 },
}

/// Reads bytes of the slot into a part of it.
pub(crate) struct Fill {
    pub(crate) part: Part,
    pub(crate) read: Read,
}

/// Reads rows of a tensor, one after the other, into a region.
pub(crate) struct Rows {
    pub(crate) part: Part,
    pub(crate) tensor: String,
    pub(crate) row_bytes: u64,
    pub(crate) ids: Vec<u32>,
    pub(crate) reply: Arc<Reply>,
}

/// Reads a whole unit into host memory, where it stays, and copies it to a slot.
pub(crate) struct Keep {
    pub(crate) unit: UnitId,
    pub(crate) part: Part,
    pub(crate) reads: Vec<Read>,
    pub(crate) room: Reservation,
    /// While it lives, the unit is on its way into host memory.
    pub(crate) _coming: Arc<()>,
}

/// Copies a unit that is in host memory to a slot.
pub(crate) struct FromHost {
    pub(crate) part: Part,
    pub(crate) reads: Vec<Read>,
    pub(crate) host: Arc<Staging>,
}

/// The rows, and the copy that has to be waited for.
type Answer = Result<(Region, Option<Ticket>), Error>;

/// Where the rows go when they are there.
#[derive(Default)]
pub(crate) struct Reply(Mutex<Option<Answer>>);

impl Reply {
    pub(crate) fn take(&self) -> Option<Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, result: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
    }
}

/// What a job brought.
#[derive(Default)]
pub(crate) struct Fetched {
    /// The region, if the job was the last of its load.
    pub(crate) region: Option<Region>,
    /// The copy that has to be waited for.
    pub(crate) uploaded: Option<Ticket>,
    /// A unit that is in host memory from now on.
    pub(crate) kept: Option<(UnitId, Staging)>,
}

/// The pieces in which a unit is read, and where the part of the slot ends that each of them fills.
pub(crate) fn pieces(unit: &Unit, layers: &[Layer], piece: u64) -> Vec<(Read, u64)> {
    let mut pieces = Vec::new();
    for extent in &unit.packing.extents {
        let end = extent.at + extent.bytes;
        let mut start = extent.at;
        let mut cut = extent.span.start;
        while start < end {
            // Cut at multiples of the piece from the span's start, so that pieces keep the congruence to sectors.
            cut = cut.saturating_add(piece);
            let stop = cut.min(end);
            let owned = if stop == end { extent.span.end } else { stop };
            let from = From::File { file: extent.file, offset: extent.offset + (start - extent.at) };
            pieces.push((Read { wanted: start..stop, from }, owned));
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
            let from = From::Tensor { name: Arc::clone(&name), offset: placed.within.start + done };
            pieces.push((Read { wanted: start..start + bytes, from }, start + bytes));
            done += bytes;
        }
    }
    pieces
}

/// The jobs that fill a slot, or the memory itself if there is nothing to read.
pub(crate) fn fill_jobs(
    unit: &Unit,
    layers: &[Layer],
    region: Region,
    piece: u64,
    (place, load): (Place, u64),
    cancel: &CancelToken,
) -> Result<(Vec<Job>, Option<Memory>), Error> {
    let pieces = pieces(unit, layers, piece);
    let Some(count) = pieces.len().checked_sub(1) else {
        return Ok((Vec::new(), Some(Memory::Region(region))));
    };
    let cuts: Vec<u64> = pieces.iter().take(count).map(|(_, owned)| *owned).collect();
    let jobs = region
        .into_parts(&cuts)?
        .into_iter()
        .zip(pieces)
        .map(|(part, (read, _))| {
            let work = Work::Fill(Fill { part, read });
            Job { place, load, name: Arc::clone(&unit.name), work, cancel: cancel.clone() }
        })
        .collect();
    Ok((jobs, None))
}

impl Job {
    /// Bytes that it will put on the device, or fault in.
    pub(crate) fn bytes(&self) -> u64 {
        let sum = |reads: &[Read]| reads.iter().map(|r| r.wanted.end - r.wanted.start).sum();
        match &self.work {
            Work::Fill(fill) => fill.read.wanted.end - fill.read.wanted.start,
            Work::Rows(rows) => rows.row_bytes * rows.ids.len() as u64,
            Work::Prefault(window) => window.bytes().len() as u64,
            Work::Keep(keep) => sum(&keep.reads),
            Work::FromHost(from) => sum(&from.reads),
        }
    }

    /// Does it, on a reader thread. `staging` is the thread's own, on devices whose memory the host does not see.
    pub(crate) fn run(
        self,
        shared: &Shared,
        staging: Option<&mut StagingSlot>,
        priority: Priority,
    ) -> Result<Fetched, Error> {
        let Job { name, work, cancel, .. } = self;
        let until = (priority, &cancel);
        match work {
            Work::Fill(fill) => fill.run(shared, staging, &name, until),
            Work::Rows(rows) => {
                let reply = Arc::clone(&rows.reply);
                match rows.run(shared, staging, &name, &cancel) {
                    Ok(Fetched { region: Some(region), uploaded, .. }) => reply.put(Ok((region, uploaded))),
                    Ok(_) => reply.put(Err(Error::Model("gathered rows lost their memory".into()))),
                    Err(e) => reply.put(Err(e)),
                }
                Ok(Fetched::default())
            }
            Work::Prefault(window) => {
                let (bytes, start) = (window.bytes().len() as u64, Instant::now());
                shared.disk.measure(bytes, || window.prefault())?;
                shared.tell(&Event::Read { unit: &name, bytes, span: Span::since(start) });
                Ok(Fetched::default())
            }
            Work::Keep(keep) => keep.run(shared, &name, until),
            Work::FromHost(from) => from.run(shared, &name, &cancel),
        }
    }

    /// What has to be known of it should the source panic.
    pub(crate) fn origin(&self) -> Origin {
        let of = |read: &Read| match &read.from {
            From::File { file, offset } => (Some(*file), None, Some(*offset), None),
            From::Tensor { name, offset } => (None, Some(name.to_string()), Some(*offset), None),
        };
        let (file, tensor, offset, reply) = match &self.work {
            Work::Fill(fill) => of(&fill.read),
            Work::Rows(rows) => (None, Some(rows.tensor.clone()), None, Some(Arc::clone(&rows.reply))),
            Work::Keep(Keep { reads, .. }) | Work::FromHost(FromHost { reads, .. }) => {
                reads.first().map_or((None, None, None, None), of)
            }
            Work::Prefault(_) => (None, None, None, None),
        };
        Origin { file, tensor, offset, reply }
    }
}

/// Where a job reads, and who waits for it.
pub(crate) struct Origin {
    file: Option<FileId>,
    tensor: Option<String>,
    offset: Option<u64>,
    reply: Option<Arc<Reply>>,
}

impl Origin {
    /// The answer to a job whose source panicked, also to who waits for rows.
    pub(crate) fn panicked(self, source: &dyn WeightSource) -> Error {
        let mut e = SourceError::new(SourceErrorKind::Io, "the source panicked while it read");
        if let Some(path) = self.file.and_then(|file| source.file(file)) {
            e = e.at_path(path);
        }
        if let Some(tensor) = self.tensor {
            e = e.at_tensor(tensor);
        }
        if let Some(offset) = self.offset {
            e = e.at_offset(offset);
        }
        let e = Error::from(e);
        if let Some(reply) = self.reply {
            reply.put(Err(e.clone()));
        }
        e
    }
}
