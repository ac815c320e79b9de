//! How bytes get into a slot: read into it, read into staging and copied, or copied from where they wait on the host.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use vram_device::{Device, Part, Queue, Staging, Ticket};
use vram_types::{CancelToken, Priority, ReadRequest, ReadTarget, SourceError, SourceErrorKind};

use super::fetch::Shared;
use super::job::{Fetched, Fill, From, FromHost, Keep, Read, Rows};
use crate::Error;
use crate::guard::{Guard, guard};
use crate::observe::{Event, Span};
use crate::sync::atomic::Ordering;

/// A reader's own staging buffer and the copy that may still read it.
pub(crate) struct StagingSlot {
    staging: Staging,
    pending: Option<Copy>,
}

/// A copy under way.
struct Copy {
    ticket: Ticket,
    issued: Instant,
    bytes: u64,
    unit: Arc<str>,
}

impl StagingSlot {
    pub(crate) fn new(staging: Staging) -> StagingSlot {
        StagingSlot { staging, pending: None }
    }

    /// Reads through staging: `read` fills `bytes` bytes from `at` on, then they are copied to `to` in the part.
    fn bring(
        &mut self,
        shared: &Shared,
        name: &Arc<str>,
        (at, bytes): (u64, u64),
        (part, to): (&mut Part, u64),
        read: impl FnOnce(&mut [u8]) -> Result<(), SourceError>,
    ) -> Result<Ticket, Error> {
        self.settle(shared)?;
        let start = Instant::now();
        shared.disk.measure(bytes, || read(self.staging.host_mut()))?;
        shared.tell(&Event::Read { unit: name, bytes, span: Span::since(start) });
        let ticket = upload(shared, &self.staging, at..at + bytes, part, to)?;
        self.pending = Some(Copy { ticket, issued: Instant::now(), bytes, unit: Arc::clone(name) });
        if shared.calibrating.load(Ordering::Relaxed) {
            // Alone on the bus, so that its time is known.
            shared.bus.measure(bytes, || self.settle(shared))?;
        }
        Ok(ticket)
    }

    /// Waits until the staging buffer may be written again, or freed.
    pub(super) fn settle(&mut self, shared: &Shared) -> Result<(), Error> {
        if let Some(Copy { ticket, issued, bytes, unit }) = self.pending.take() {
            if guard(Guard::StagingWait) {
                shared.device.wait(ticket)?;
            }
            shared.tell(&Event::Copied { unit: &unit, bytes, span: Span::since(issued) });
        }
        Ok(())
    }
}

fn upload(
    shared: &Shared,
    from: &Staging,
    range: Range<u64>,
    part: &mut Part,
    to: u64,
) -> Result<Ticket, Error> {
    let ticket = shared.device.upload(from, range, part, to)?;
    part.issued(ticket);
    Ok(ticket)
}

/// Orders the writes to a part after the work that may still use its memory from before.
fn order_after(device: &dyn Device, part: &Part, staged: bool) -> Result<(), Error> {
    for &ticket in part.after() {
        if !guard(Guard::CopyAfterKernels) {
            continue;
        }
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

/// How urgent a read is, and what ends it.
pub(super) type Until<'a> = (Priority, &'a CancelToken);

impl Read {
    fn bytes(&self) -> u64 {
        self.wanted.end - self.wanted.start
    }

    /// Reads it to byte `at` of `dst`.
    fn to(&self, shared: &Shared, dst: &mut [u8], at: u64, until: Until<'_>) -> Result<(), SourceError> {
        let target = match &self.from {
            From::File { file, offset } => ReadTarget::File { file: *file, offset: *offset },
            From::Tensor { name, offset } => ReadTarget::Tensor { name, offset: *offset },
        };
        let request = ReadRequest { target, bytes: self.bytes(), dst, at: at as usize };
        shared.source.read_many(&mut [request], until.0, until.1)
    }
}

impl Fill {
    pub(super) fn run(
        mut self,
        shared: &Shared,
        staging: Option<&mut StagingSlot>,
        name: &Arc<str>,
        until: Until<'_>,
    ) -> Result<Fetched, Error> {
        until.1.check()?;
        order_after(&*shared.device, &self.part, staging.is_some())?;
        let bytes = self.read.bytes();
        let to = self.read.wanted.start - self.part.range().start;
        let uploaded = match staging {
            None => {
                let start = Instant::now();
                let dst = self.part.host_mut().ok_or_else(not_visible)?;
                shared.disk.measure(bytes, || self.read.to(shared, dst, to, until))?;
                shared.tell(&Event::Read { unit: name, bytes, span: Span::since(start) });
                None
            }
            Some(slot) => {
                // The slot is congruent to the file, so the same offset modulo the sector keeps the read direct.
                let at = self.read.wanted.start % shared.source.alignment();
                Some(slot.bring(shared, name, (at, bytes), (&mut self.part, to), |dst| {
                    self.read.to(shared, dst, at, until)
                })?)
            }
        };
        Ok(Fetched { region: self.part.finish(), uploaded, kept: None })
    }
}

impl Keep {
    pub(super) fn run(
        mut self,
        shared: &Shared,
        name: &Arc<str>,
        until: Until<'_>,
    ) -> Result<Fetched, Error> {
        order_after(&*shared.device, &self.part, true)?;
        let mut host = shared.device.stage(self.room)?;
        for read in &self.reads {
            until.1.check()?;
            let start = Instant::now();
            let dst = host.host_mut();
            shared.disk.measure(read.bytes(), || read.to(shared, dst, read.wanted.start, until))?;
            shared.tell(&Event::Read { unit: name, bytes: read.bytes(), span: Span::since(start) });
        }
        let mut uploaded = None;
        for read in &self.reads {
            uploaded = Some(upload(shared, &host, read.wanted.clone(), &mut self.part, read.wanted.start)?);
        }
        Ok(Fetched { region: self.part.finish(), uploaded, kept: Some((self.unit, host)) })
    }
}

/// A gap between tensors that is copied along: a copy more takes longer.
const GAP: u64 = 4096;

/// The copies for what was read in pieces: as few as there can be. What lies in gaps is nobody's, on both sides.
fn copies(reads: &[Read]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = reads.iter().map(|r| r.wanted.clone()).collect();
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

impl FromHost {
    pub(super) fn run(
        mut self,
        shared: &Shared,
        name: &Arc<str>,
        cancel: &CancelToken,
    ) -> Result<Fetched, Error> {
        cancel.check()?;
        order_after(&*shared.device, &self.part, true)?;
        let (mut uploaded, start) = (None, Instant::now());
        for range in copies(&self.reads) {
            let at = range.start;
            uploaded = Some(upload(shared, &self.host, range, &mut self.part, at)?);
        }
        let bytes = self.reads.iter().map(Read::bytes).sum();
        if let (Some(ticket), true) = (uploaded, shared.calibrating.load(Ordering::Relaxed)) {
            shared.bus.measure(bytes, || shared.device.wait(ticket))?;
        }
        shared.tell(&Event::Copied { unit: name, bytes, span: Span::since(start) });
        Ok(Fetched { region: self.part.finish(), uploaded, kept: None })
    }
}

impl Rows {
    pub(super) fn run(
        mut self,
        shared: &Shared,
        staging: Option<&mut StagingSlot>,
        name: &Arc<str>,
        cancel: &CancelToken,
    ) -> Result<Fetched, Error> {
        order_after(&*shared.device, &self.part, staging.is_some())?;
        let row = self.row_bytes;
        let tensor = &self.tensor;
        let Some(slot) = staging else {
            let (bytes, start) = (row * self.ids.len() as u64, Instant::now());
            let dst = self.part.host_mut().ok_or_else(not_visible)?;
            read_rows(shared, tensor, row, &self.ids, dst, cancel)?;
            shared.tell(&Event::Read { unit: name, bytes, span: Span::since(start) });
            return Ok(Fetched { region: self.part.finish(), uploaded: None, kept: None });
        };
        let mut uploaded = None;
        let room = slot.staging.bytes().max(1);
        if row <= room {
            let per_copy = (room / row.max(1)).max(1) as usize;
            for (i, ids) in self.ids.chunks(per_copy).enumerate() {
                let bytes = ids.len() as u64 * row;
                let to = (i * per_copy) as u64 * row;
                uploaded = Some(slot.bring(shared, name, (0, bytes), (&mut self.part, to), |dst| {
                    read_rows(shared, tensor, row, ids, dst, cancel)
                })?);
            }
            return Ok(Fetched { region: self.part.finish(), uploaded, kept: None });
        }
        // A row that is longer than the staging buffer comes in pieces.
        for (i, &id) in self.ids.iter().enumerate() {
            let mut done = 0;
            while done < row {
                let bytes = room.min(row - done);
                let to = i as u64 * row + done;
                let offset = u64::from(id) * row + done;
                uploaded = Some(slot.bring(shared, name, (0, bytes), (&mut self.part, to), |dst| {
                    let dst = dst.get_mut(..bytes as usize).unwrap_or_default();
                    let request = ReadRequest::tensor(tensor, offset, dst);
                    shared.source.read_many(&mut [request], Priority::Urgent, cancel)
                })?);
                done += bytes;
            }
        }
        Ok(Fetched { region: self.part.finish(), uploaded, kept: None })
    }
}

fn read_rows(
    shared: &Shared,
    tensor: &str,
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
        .map(|(dst, &id)| ReadRequest::tensor(tensor, u64::from(id) * row_bytes, dst))
        .collect();
    if requests.len() != ids.len() {
        return Err(SourceError::new(SourceErrorKind::OutOfRange, "the rows do not fit their buffer")
            .at_tensor(tensor));
    }
    shared.source.read_many(&mut requests, Priority::Urgent, cancel)
}
