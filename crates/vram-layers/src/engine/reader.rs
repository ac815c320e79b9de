//! The threads that read: the only ones that touch the source.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use vram_device::{DeviceError, Staging};

use super::shared::Shared;
use super::staging::ReaderStaging;
use super::tables::Issued;
use crate::error::Error;
use crate::sync::thread::{Builder, JoinHandle};

pub(super) fn spawn(
    index: usize,
    shared: Arc<Shared>,
    staging: Option<Staging>,
) -> Result<JoinHandle<()>, Error> {
    Builder::new()
        .name(format!("vram-reader-{index}"))
        .spawn(move || run(&shared, staging.map(ReaderStaging::new)))
        .map_err(|e| {
            DeviceError::Unavailable { what: "a reader thread".into(), reason: e.to_string() }.into()
        })
}

fn run(shared: &Shared, mut staging: Option<ReaderStaging>) {
    let context = shared.context();
    let mut tables = shared.lock();
    loop {
        if tables.is_stopped() {
            drop(tables);
            if let Some(mut last) = staging {
                // Its memory is freed now. The computing thread has already seen a device error here.
                let _ = last.settle(context);
            }
            return;
        }
        if tables.issue_wanted(context) {
            continue;
        }
        if let Some((job, priority)) = tables.take_job() {
            drop(tables);
            let (place, load, traces) = (job.place, job.load, job.traces());
            let read = || job.run(context, staging.as_mut(), priority);
            let result = catch_unwind(AssertUnwindSafe(read))
                .unwrap_or_else(|_| Err(traces.panicked(&*context.source)));
            tables = shared.lock();
            tables.complete(place, load, result);
            context.ready.notify_all();
            continue;
        }
        match tables.issue_next(context) {
            Issued::Yes => {
                if tables.has_jobs_for_others() {
                    context.work.notify_all();
                }
                // A unit without bytes, or one that failed at once, is ready as soon as it is issued.
                context.ready.notify_all();
            }
            Issued::NoRoom | Issued::Enough => {
                tables = context.work.wait(tables).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
