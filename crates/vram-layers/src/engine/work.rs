//! The kinds of work that bring a unit to the device, each done by a reader.

use std::sync::Arc;
use std::time::Instant;

use vram_device::{Part, Reservation, Staging, Ticket};
use vram_types::{HostBytes, ReadOptions};

use super::context::Context;
use super::guard::fill_after_kernels;
use super::reads::{Read, copies};
use super::slot::Fetched;
use super::staging::ReaderStaging;
use crate::error::Error;
use crate::observe::event::{Event, Span};
use crate::plan::partition::UnitId;

/// Reads bytes of a slot into a part of it.
pub(super) struct Fill {
    pub(super) part: Part,
    pub(super) read: Read,
}

/// Faults in a window of a memory map.
pub(super) struct Prefault(pub(super) Arc<dyn HostBytes>);

/// Reads a whole unit into host memory, where it stays, and copies it to a slot.
pub(super) struct ToHost {
    pub(super) unit: UnitId,
    pub(super) part: Part,
    pub(super) reads: Vec<Read>,
    pub(super) room: Reservation,
    /// While this lives, the unit is being loaded into host memory.
    pub(super) _coming: Arc<()>,
}

/// Copies a unit that is in host memory to a slot.
pub(super) struct FromHost {
    pub(super) part: Part,
    pub(super) reads: Vec<Read>,
    pub(super) host: Arc<Staging>,
}

impl Fill {
    pub(super) fn run(
        mut self,
        context: &Context,
        staging: Option<&mut ReaderStaging>,
        name: &Arc<str>,
        options: &ReadOptions,
    ) -> Result<Fetched, Error> {
        options.check()?;
        fill_after_kernels(&*context.device, &self.part, staging.is_some())?;
        let (source, read) = (&*context.source, &self.read);
        let (bytes, wanted) = (read.bytes(), read.wanted());
        let to = wanted.start - self.part.range().start;
        let uploaded = match staging {
            None => {
                let dst = self.part.host_mut().ok_or_else(not_visible)?;
                context.read(name, bytes, || read.perform(source, dst, to, options))?;
                None
            }
            Some(staging) => {
                // The slot is congruent to the file, so keeping the offset modulo the sector lets the read
                // stay direct.
                let at = wanted.start % source.alignment();
                let read = |dst: &mut [u8]| read.perform(source, dst, at, options);
                Some(staging.bring(context, name, at..at + bytes, (&mut self.part, to), read)?)
            }
        };
        Ok(Fetched { region: self.part.finish(), uploaded, to_host: None })
    }
}

impl Prefault {
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes().len() as u64
    }

    pub(super) fn run(self, context: &Context, name: &Arc<str>) -> Result<Fetched, Error> {
        context.read(name, self.bytes(), || self.0.prefault())?;
        Ok(Fetched::default())
    }
}

impl ToHost {
    pub(super) fn run(
        mut self,
        context: &Context,
        name: &Arc<str>,
        options: &ReadOptions,
    ) -> Result<Fetched, Error> {
        fill_after_kernels(&*context.device, &self.part, true)?;
        let mut host = context.device.stage(self.room)?;
        for read in &self.reads {
            options.check()?;
            let (own, wanted) = (read.own(), read.wanted());
            let dst = host.host_mut().get_mut(own.start as usize..own.end as usize).unwrap_or_default();
            let perform = || read.perform(&*context.source, dst, wanted.start - own.start, options);
            context.read(name, read.bytes(), perform)?;
        }
        let mut uploaded = None;
        for read in &self.reads {
            uploaded = Some(copy(context, &host, read.wanted(), &mut self.part)?);
        }
        Ok(Fetched { region: self.part.finish(), uploaded, to_host: Some((self.unit, host)) })
    }
}

impl FromHost {
    pub(super) fn run(
        mut self,
        context: &Context,
        name: &Arc<str>,
        options: &ReadOptions,
    ) -> Result<Fetched, Error> {
        options.check()?;
        fill_after_kernels(&*context.device, &self.part, true)?;
        let (mut uploaded, start) = (None, Instant::now());
        for range in copies(&self.reads) {
            uploaded = Some(copy(context, &self.host, range, &mut self.part)?);
        }
        let bytes = self.reads.iter().map(Read::bytes).sum();
        if let Some(ticket) = uploaded {
            context.measure_copy(bytes, || context.device.wait(ticket))?;
        }
        context.tell(&Event::Copied { unit: name, bytes, span: Span::since(start) });
        Ok(Fetched { region: self.part.finish(), uploaded, to_host: None })
    }
}

/// Copies bytes of a unit from host memory, where they are laid out as in the slot.
fn copy(
    context: &Context,
    host: &Staging,
    range: std::ops::Range<u64>,
    part: &mut Part,
) -> Result<Ticket, Error> {
    let to = range.start;
    let ticket = context.device.upload(host, range, part, to)?;
    part.issued(ticket);
    Ok(ticket)
}

/// The error for a slot that a reader can neither write nor stage for.
pub(super) fn not_visible() -> Error {
    Error::Unsupported("the device's memory is not host-visible and there is no staging".into())
}
