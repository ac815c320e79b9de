//! A reader's staging buffer, for devices whose memory is not visible to the host.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use vram_device::{DeviceError, Part, Stage, Staging, Ticket};
use vram_types::SourceError;

use super::context::Context;
use super::guard::settle_staging;
use crate::error::Error;
use crate::observe::event::{Event, Span};

/// A staging buffer, and what to report of the copy that may still read it.
pub(crate) struct ReaderStaging {
    stage: Stage,
    copy: Option<Copied>,
}

/// A copy that was issued.
struct Copied {
    issued: Instant,
    bytes: u64,
    unit: Arc<str>,
}

impl ReaderStaging {
    pub(super) fn new(staging: Staging) -> ReaderStaging {
        ReaderStaging { stage: Stage::new(staging), copy: None }
    }

    /// Size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.stage.bytes()
    }

    /// Has `read` fill bytes `range` of the buffer, and copies them to byte `to` of the part.
    pub(super) fn bring(
        &mut self,
        context: &Context,
        unit: &Arc<str>,
        range: Range<u64>,
        (part, to): (&mut Part, u64),
        read: impl FnOnce(&mut [u8]) -> Result<(), SourceError>,
    ) -> Result<Ticket, Error> {
        self.settle(context)?;
        let bytes = range.end - range.start;
        let fill = |dst: &mut [u8]| context.read(unit, bytes, || read(dst)).map_err(Error::from);
        let ticket = self.stage.upload(&*context.device, range, (part, to), fill)?;
        self.copy = Some(Copied { issued: Instant::now(), bytes, unit: Arc::clone(unit) });
        context.measure_copy(bytes, || self.settle(context))?;
        Ok(ticket)
    }

    /// Waits until the buffer may be rewritten or freed.
    pub(super) fn settle(&mut self, context: &Context) -> Result<(), DeviceError> {
        settle_staging(&mut self.stage, &*context.device)?;
        if let Some(Copied { issued, bytes, unit }) = self.copy.take() {
            context.tell(&Event::Copied { unit: &unit, bytes, span: Span::since(issued) });
        }
        Ok(())
    }
}
