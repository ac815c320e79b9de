//! Rows of a table, read on demand.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use vram_device::{Part, Region, Ticket};
use vram_types::{Encoding, FileRange, ReadOptions, ReadRequest, ReadTarget, SourceError, SourceErrorKind};

use super::context::Context;
use super::guard::fill_after_kernels;
use super::slot::Fetched;
use super::staging::ReaderStaging;
use super::work::not_visible;
use crate::error::Error;
use crate::observe::event::{Event, Span};
use crate::spec::LayerTensor;
use crate::sync::Mutex;

/// Reads rows of a tensor, one after the other, into a region.
pub(super) struct Rows {
    pub(super) part: Part,
    pub(super) table: Table,
    pub(super) row_bytes: u64,
    pub(super) ids: Vec<u32>,
    pub(super) reply: Arc<Reply>,
}

/// A tensor whose rows are read in their stored form.
pub(super) struct Table {
    pub(super) name: Arc<str>,
    /// Where it lies, if it is kept in blocks; reading it by name would decode it.
    blocks: Option<FileRange>,
}

impl Table {
    pub(super) fn of(tensor: &LayerTensor) -> Table {
        let in_blocks = matches!(tensor.encoding, Encoding::Blocks(_));
        let blocks = tensor.ranges.first().copied().filter(|_| in_blocks);
        Table { name: tensor.name.as_str().into(), blocks }
    }

    /// The target of a read from `offset` on.
    fn target(&self, offset: u64) -> ReadTarget<'_> {
        match self.blocks {
            Some(range) => ReadTarget::File { file: range.file, offset: range.offset + offset },
            None => ReadTarget::Tensor { name: &self.name, offset },
        }
    }
}

/// The rows, and the copy to wait for.
pub(super) type Answer = Result<(Region, Option<Ticket>), Error>;

/// Where the rows go when they have been read.
#[derive(Default)]
pub(super) struct Reply(Mutex<Option<Answer>>);

impl Reply {
    pub(super) fn take(&self) -> Option<Answer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn put(&self, answer: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

impl Rows {
    /// Reads them and answers.
    pub(super) fn run(
        self,
        context: &Context,
        staging: Option<&mut ReaderStaging>,
        name: &Arc<str>,
        options: &ReadOptions,
    ) {
        let reply = Arc::clone(&self.reply);
        reply.put(match self.fetch(context, staging, name, options) {
            Ok(Fetched { region: Some(region), uploaded, .. }) => Ok((region, uploaded)),
            Ok(_) => Err(Error::Model("gathered rows lost their memory".into())),
            Err(e) => Err(e),
        });
    }

    fn fetch(
        mut self,
        context: &Context,
        staging: Option<&mut ReaderStaging>,
        name: &Arc<str>,
        options: &ReadOptions,
    ) -> Result<Fetched, Error> {
        fill_after_kernels(&*context.device, &self.part, staging.is_some())?;
        let row = self.row_bytes;
        let table = &self.table;
        let Some(staging) = staging else {
            let (bytes, start) = (row * self.ids.len() as u64, Instant::now());
            let dst = self.part.host_mut().ok_or_else(not_visible)?;
            read_rows(context, table, row, &self.ids, dst, options)?;
            context.tell(&Event::Read { unit: name, bytes, span: Span::since(start) });
            return Ok(Fetched { region: self.part.finish(), uploaded: None, to_host: None });
        };
        let mut uploaded = None;
        let room = staging.bytes().max(1);
        if row <= room {
            let per_copy = (room / row.max(1)).max(1) as usize;
            for (i, ids) in self.ids.chunks(per_copy).enumerate() {
                let bytes = ids.len() as u64 * row;
                let to = (i * per_copy) as u64 * row;
                let read = |dst: &mut [u8]| read_rows(context, table, row, ids, dst, options);
                uploaded = Some(staging.bring(context, name, 0..bytes, (&mut self.part, to), read)?);
            }
            return Ok(Fetched { region: self.part.finish(), uploaded, to_host: None });
        }
        // A row longer than the staging buffer is read in pieces.
        for (i, &id) in self.ids.iter().enumerate() {
            let mut done = 0;
            while done < row {
                let bytes = room.min(row - done);
                let to = i as u64 * row + done;
                let offset = u64::from(id) * row + done;
                let read = |dst: &mut [u8]| {
                    let dst = dst.get_mut(..bytes as usize).unwrap_or_default();
                    let request = ReadRequest { target: table.target(offset), bytes, dst, at: 0 };
                    context.source.read_many(&mut [request], options)
                };
                uploaded = Some(staging.bring(context, name, 0..bytes, (&mut self.part, to), read)?);
                done += bytes;
            }
        }
        Ok(Fetched { region: self.part.finish(), uploaded, to_host: None })
    }
}

fn read_rows(
    context: &Context,
    table: &Table,
    row_bytes: u64,
    ids: &[u32],
    dst: &mut [u8],
    options: &ReadOptions,
) -> Result<(), SourceError> {
    if row_bytes == 0 {
        return Ok(());
    }
    let mut requests: Vec<ReadRequest<'_>> = dst
        .chunks_exact_mut(row_bytes as usize)
        .zip(ids)
        .map(|(dst, &id)| {
            let target = table.target(u64::from(id) * row_bytes);
            ReadRequest { target, bytes: row_bytes, dst, at: 0 }
        })
        .collect();
    if requests.len() != ids.len() {
        return Err(SourceError::new(SourceErrorKind::OutOfRange, "the rows do not fit their buffer")
            .at_tensor(&*table.name));
    }
    context.source.read_many(&mut requests, options)
}
