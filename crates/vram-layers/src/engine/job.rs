//! One read: a piece of a unit, the rows of a table, or a window of a map to be faulted in.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use vram_device::{Device, Part, Queue, Region, Staging, Ticket};
use vram_types::{
    CancelToken, FileId, HostBytes, Priority, ReadRequest, ReadTarget, SourceError, SourceErrorKind,
    WeightSource,
};

use super::slot::Memory;
use crate::partition::Unit;
use crate::spec::Layer;
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
    pub(crate) work: Work,
    pub(crate) cancel: CancelToken,
}

pub(crate) enum Work {
    Fill(Fill),
    Rows(Rows),
    Prefault(Arc<dyn HostBytes>),
}

/// Reads `wanted` bytes of the slot into a part of it.
pub(crate) struct Fill {
    part: Part,
    wanted: Range<u64>,
    from: From,
}

enum From {
    File { file: FileId, offset: u64 },
    Tensor { name: String, offset: u64 },
}

/// Reads rows of a tensor, one after the other, into a region.
pub(crate) struct Rows {
    pub(crate) part: Part,
    pub(crate) name: String,
    pub(crate) row_bytes: u64,
    pub(crate) ids: Vec<u32>,
    pub(crate) reply: Arc<Reply>,
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

/// What a job brought: the region, if it was the last of its load, and the copy that has to be waited for.
pub(crate) struct Fetched {
    pub(crate) region: Option<Region>,
    pub(crate) uploaded: Option<Ticket>,
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
    let mut reads: Vec<(Range<u64>, u64, From)> = Vec::new();
    for extent in &unit.packing.extents {
        let end = extent.at + extent.bytes;
        let mut start = extent.at;
        let mut cut = extent.span.start;
        while start < end {
            // Cut at multiples of the piece from the span's start, so that pieces keep the congruence to sectors.
            cut += piece;
            let stop = cut.min(end);
            let last = stop == end;
            let owned = if last { extent.span.end } else { stop };
            let from = From::File { file: extent.file, offset: extent.offset + (start - extent.at) };
            reads.push((start..stop, owned, from));
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
        let mut done = 0;
        while done < computed.bytes {
            let bytes = piece.min(computed.bytes - done);
            let start = computed.at + done;
            let name = layers[layer.0].tensors[index].name.clone();
            let from = From::Tensor { name, offset: placed.within.start + done };
            reads.push((start..start + bytes, start + bytes, from));
            done += bytes;
        }
    }
    let Some(count) = reads.len().checked_sub(1) else {
        return Ok((Vec::new(), Some(Memory::Region(region))));
    };
    let cuts: Vec<u64> = reads.iter().take(count).map(|(_, owned, _)| *owned).collect();
    let jobs = region
        .into_parts(&cuts)?
        .into_iter()
        .zip(reads)
        .map(|(part, (wanted, _, from))| {
            let work = Work::Fill(Fill { part, wanted, from });
            Job { place, load, work, cancel: cancel.clone() }
        })
        .collect();
    Ok((jobs, None))
}

impl Job {
    /// Bytes that it will ask of the source.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.work {
            Work::Fill(fill) => fill.wanted.end - fill.wanted.start,
            Work::Rows(rows) => rows.row_bytes * rows.ids.len() as u64,
            Work::Prefault(window) => window.bytes().len() as u64,
        }
    }

    /// Does it, on a reader thread. `staging` is the thread's own, on devices whose memory the host does not see.
    pub(crate) fn run(
        self,
        source: &dyn WeightSource,
        device: &dyn Device,
        staging: Option<&mut StagingSlot>,
    ) -> Result<Fetched, Error> {
        match self.work {
            Work::Fill(fill) => fill.run(source, device, staging, &self.cancel),
            Work::Rows(rows) => {
                let reply = Arc::clone(&rows.reply);
                let result = rows.run(source, device, staging, &self.cancel);
                match result {
                    Ok(Fetched { region: Some(region), uploaded }) => reply.put(Ok((region, uploaded))),
                    Ok(Fetched { region: None, .. }) => {
                        reply.put(Err(Error::Model("gathered rows lost their memory".into())));
                    }
                    Err(e) => reply.put(Err(e)),
                }
                Ok(Fetched { region: None, uploaded: None })
            }
            Work::Prefault(window) => {
                window.prefault()?;
                Ok(Fetched { region: None, uploaded: None })
            }
        }
    }

    /// What has to be known of it should the source panic.
    pub(crate) fn origin(&self) -> Origin {
        let (file, tensor, offset, reply) = match &self.work {
            Work::Fill(fill) => match &fill.from {
                From::File { file, offset } => (Some(*file), None, Some(*offset), None),
                From::Tensor { name, offset } => (None, Some(name.clone()), Some(*offset), None),
            },
            Work::Rows(rows) => (None, Some(rows.name.clone()), None, Some(Arc::clone(&rows.reply))),
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

/// A reader's own staging buffer and the copy that may still read it.
pub(crate) struct StagingSlot {
    staging: Staging,
    pending: Option<Ticket>,
}

impl StagingSlot {
    pub(crate) fn new(staging: Staging) -> StagingSlot {
        StagingSlot { staging, pending: None }
    }

    /// Reads through staging: `read` fills `bytes` bytes from `at` on, then they are copied to `to` in the part.
    fn bring(
        &mut self,
        device: &dyn Device,
        (at, bytes): (u64, u64),
        part: &mut Part,
        to: u64,
        read: impl FnOnce(&mut [u8]) -> Result<(), SourceError>,
    ) -> Result<Ticket, Error> {
        if let Some(pending) = self.pending.take() {
            device.wait(pending)?;
        }
        read(self.staging.host_mut())?;
        let ticket = device.upload(&self.staging, at..at + bytes, part, to)?;
        part.issued(ticket);
        self.pending = Some(ticket);
        Ok(ticket)
    }
}

/// Orders the writes to a part after the work that may still use its memory from before.
fn order_after(device: &dyn Device, part: &Part, staged: bool) -> Result<(), Error> {
    for &ticket in part.after() {
        if staged {
            device.order(Queue::Copy, ticket)?;
        } else {
            device.wait(ticket)?;
        }
    }
    Ok(())
}

fn not_visible() -> Error {
    Error::Unsupported("the device's memory is not host-visible and there is no staging".into())
}

impl Fill {
    fn run(
        mut self,
        source: &dyn WeightSource,
        device: &dyn Device,
        staging: Option<&mut StagingSlot>,
        cancel: &CancelToken,
    ) -> Result<Fetched, Error> {
        cancel.check()?;
        order_after(device, &self.part, staging.is_some())?;
        let bytes = self.wanted.end - self.wanted.start;
        let to = self.wanted.start - self.part.range().start;
        let target = match &self.from {
            From::File { file, offset } => ReadTarget::File { file: *file, offset: *offset },
            From::Tensor { name, offset } => ReadTarget::Tensor { name, offset: *offset },
        };
        let uploaded = match staging {
            None => {
                let dst = self.part.host_mut().ok_or_else(not_visible)?;
                let request = ReadRequest { target, bytes, dst, at: to as usize };
                source.read_many(&mut [request], Priority::ReadAhead, cancel)?;
                None
            }
            Some(slot) => {
                // The slot is congruent to the file, so the same offset modulo the sector keeps the read direct.
                let at = self.wanted.start % source.alignment();
                Some(slot.bring(device, (at, bytes), &mut self.part, to, |dst| {
                    let request = ReadRequest { target, bytes, dst, at: at as usize };
                    source.read_many(&mut [request], Priority::ReadAhead, cancel)
                })?)
            }
        };
        Ok(Fetched { region: self.part.finish(), uploaded })
    }
}

impl Rows {
    fn run(
        mut self,
        source: &dyn WeightSource,
        device: &dyn Device,
        staging: Option<&mut StagingSlot>,
        cancel: &CancelToken,
    ) -> Result<Fetched, Error> {
        order_after(device, &self.part, staging.is_some())?;
        let row = self.row_bytes;
        let Some(slot) = staging else {
            let dst = self.part.host_mut().ok_or_else(not_visible)?;
            read_rows(source, &self.name, row, &self.ids, dst, cancel)?;
            return Ok(Fetched { region: self.part.finish(), uploaded: None });
        };
        let per_copy = (slot.staging.bytes() / row.max(1)).max(1) as usize;
        let mut uploaded = None;
        for (i, ids) in self.ids.chunks(per_copy).enumerate() {
            let bytes = ids.len() as u64 * row;
            let to = (i * per_copy) as u64 * row;
            let ticket = slot.bring(device, (0, bytes), &mut self.part, to, |dst| {
                read_rows(source, &self.name, row, ids, dst, cancel)
            })?;
            uploaded = Some(ticket);
        }
        Ok(Fetched { region: self.part.finish(), uploaded })
    }
}

fn read_rows(
    source: &dyn WeightSource,
    name: &str,
    row_bytes: u64,
    ids: &[u32],
    dst: &mut [u8],
    cancel: &CancelToken,
) -> Result<(), SourceError> {
    if row_bytes == 0 {
        return Ok(());
    }
    let mut requests: Vec<ReadRequest<'_>> = dst
        .chunks_exact_mut(row_bytes as usize)
        .zip(ids)
        .map(|(dst, &id)| ReadRequest::tensor(name, u64::from(id) * row_bytes, dst))
        .collect();
    if requests.len() != ids.len() {
        return Err(
            SourceError::new(SourceErrorKind::OutOfRange, "the rows do not fit their buffer").at_tensor(name)
        );
    }
    source.read_many(&mut requests, Priority::Urgent, cancel)
}
