//! The threads that read: the only ones that touch the source.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use vram_device::{DeviceError, Staging};

use super::bring::StagingSlot;
use super::fetch::{Issued, Shared};
use crate::Error;
use crate::sync::thread::{Builder, JoinHandle};

pub(crate) fn spawn(
    index: usize,
    shared: Arc<Shared>,
    staging: Option<Staging>,
) -> Result<JoinHandle<()>, Error> {
    Builder::new()
        .name(format!("vram-reader-{index}"))
        .spawn(move || run(&shared, staging.map(StagingSlot::new)))
        .map_err(|e| {
            DeviceError::Unavailable { what: "a reader thread".into(), reason: e.to_string() }.into()
        })
}

fn run(shared: &Shared, mut staging: Option<StagingSlot>) {
    let mut f = shared.lock();
    loop {
        if f.stop {
            drop(f);
            if let Some(mut last) = staging {
                // Its memory goes now. A device that fails here has said so to who computes.
                let _ = last.settle(shared);
            }
            return;
        }
        if shared.issue_wanted(&mut f) {
            continue;
        }
        if let Some(job) = f.jobs.pop_front() {
            f.busy += 1;
            let priority = f.priority(job.place);
            drop(f);
            let (place, load, origin) = (job.place, job.load, job.origin());
            let read = || job.run(shared, staging.as_mut(), priority);
            let result = catch_unwind(AssertUnwindSafe(read))
                .unwrap_or_else(|_| Err(origin.panicked(&*shared.source)));
            f = shared.lock();
            f.busy -= 1;
            shared.complete(&mut f, place, load, result);
            shared.ready.notify_all();
            continue;
        }
        match shared.issue_next(&mut f) {
            Issued::Yes => {
                if f.jobs.len() > 1 {
                    shared.work.notify_all();
                }
                // A unit without bytes, or one that failed at once, is ready as it is issued.
                shared.ready.notify_all();
            }
            Issued::NoRoom | Issued::Enough => {
                f = shared.work.wait(f).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
