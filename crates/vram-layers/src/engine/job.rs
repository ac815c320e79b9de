//! One piece of work for a reader.

use std::sync::Arc;

use vram_types::{CancelToken, FileId, Priority, ReadOptions, SourceError, SourceErrorKind, WeightSource};

use super::context::Context;
use super::reads::Read;
use super::rows::{Reply, Rows};
use super::slot::Fetched;
use super::staging::ReaderStaging;
use super::work::{Fill, FromHost, Prefault, ToHost};
use crate::error::Error;
use crate::plan::partition::UnitId;

/// What a job's weights are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A unit that stays.
    Resident(UnitId),
    /// The unit at a position of the trace.
    Position(u64),
    /// A unit that is not in the trace, or rows.
    Stray,
}

pub(super) struct Job {
    pub(super) place: Place,
    /// Which load of that place; jobs of an earlier load are ignored.
    pub(super) load: u64,
    /// Name of the unit, or of the layer whose rows it brings.
    pub(super) name: Arc<str>,
    pub(super) work: Work,
    pub(super) cancel: CancelToken,
}

pub(super) enum Work {
    Fill(Fill),
    Rows(Rows),
    Prefault(Prefault),
    ToHost(ToHost),
    FromHost(FromHost),
}

impl Job {
    /// Runs the job on a reader thread. `staging` belongs to the thread; it exists on devices whose memory is
    /// not visible to the host.
    pub(super) fn run(
        self,
        context: &Context,
        staging: Option<&mut ReaderStaging>,
        priority: Priority,
    ) -> Result<Fetched, Error> {
        let Job { name, work, cancel, .. } = self;
        let options = ReadOptions::default().with_priority(priority).with_cancel(&cancel);
        match work {
            Work::Fill(work) => work.run(context, staging, &name, &options),
            Work::Rows(work) => {
                work.run(context, staging, &name, &options);
                Ok(Fetched::default())
            }
            Work::Prefault(work) => work.run(context, &name),
            Work::ToHost(work) => work.run(context, &name, &options),
            Work::FromHost(work) => work.run(context, &name, &options),
        }
    }

    /// What has to be known about the job if the source panics.
    pub(super) fn traces(&self) -> Traces {
        let of = |read: &Read| {
            let (file, tensor, offset) = read.stored();
            Traces { file, tensor: tensor.map(str::to_owned), offset: Some(offset), reply: None }
        };
        match &self.work {
            Work::Fill(Fill { read, .. }) => of(read),
            Work::Rows(Rows { table, reply, .. }) => {
                let (tensor, reply) = (Some(table.name.to_string()), Some(Arc::clone(reply)));
                Traces { tensor, reply, ..Traces::default() }
            }
            Work::ToHost(ToHost { reads, .. }) | Work::FromHost(FromHost { reads, .. }) => {
                reads.first().map_or_else(Traces::default, of)
            }
            Work::Prefault(_) => Traces::default(),
        }
    }
}

/// Where a job reads, and who waits for it.
#[derive(Default)]
pub(super) struct Traces {
    file: Option<FileId>,
    tensor: Option<String>,
    offset: Option<u64>,
    reply: Option<Arc<Reply>>,
}

impl Traces {
    /// The error of a job whose source panicked. A thread that waits for its rows gets it too.
    pub(super) fn panicked(self, source: &dyn WeightSource) -> Error {
        let mut e = SourceError::new(SourceErrorKind::Io, "the source panicked while it read");
        if let Some(name) = self.file.and_then(|file| source.describe(file)) {
            e = e.at_file(name);
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
