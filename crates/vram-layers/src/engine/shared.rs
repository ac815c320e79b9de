//! State shared by the readers and the computing thread, and how they wait for each other.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use vram_device::Ticket;

use super::context::Context;
use super::guard::{is_drained, late_quarantine_after_kernels, quarantine_after_kernels};
use super::rows::{Answer, Rows};
use super::slot::Weights;
use super::tables::{Look, Tables};
use crate::error::Error;
use crate::observe::event::{Span, StallCause};
use crate::plan::compose::Planned;
use crate::plan::partition::UnitId;
use crate::sync::{Mutex, MutexGuard};

pub(crate) struct Shared {
    context: Context,
    // Lock order: an engine's admission, this, then an arena's, then a budget's. None is held during a read,
    // and no user code runs under this one.
    tables: Mutex<Tables>,
}

/// The unit that the computing thread has acquired.
pub(super) struct Acquired {
    pub(super) weights: Arc<Weights>,
    /// How long it waited, and why.
    pub(super) stall: Option<(Span, StallCause)>,
    /// Whether its bytes are still to be reported.
    pub(super) first: bool,
}

impl Shared {
    pub(super) fn new(context: Context) -> Shared {
        Shared { context, tables: Mutex::default() }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Tables> {
        // Only user code can panic, and none runs under this lock.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the weights of a unit and takes them.
    pub(super) fn acquire(&self, unit: UnitId) -> Result<Acquired, Error> {
        let context = &self.context;
        let mut tables = self.lock();
        if let Some(weights) = tables.lease_again(unit)? {
            return Ok(Acquired { weights, stall: None, first: false });
        }
        tables.let_go(context);
        let way = tables.find_way(unit);
        let mut waiting = None;
        let weights = loop {
            match tables.look(context, unit, way) {
                Look::Ready(weights) => break weights,
                Look::Failed(e) => return Err(e),
                // The first cause is the one reported for the wait.
                Look::Wait(cause) => waiting.get_or_insert_with(|| (Instant::now(), cause)),
            };
            tables = context.ready.wait(tables).unwrap_or_else(PoisonError::into_inner);
        };
        let ring_was_full = tables.end_wait();
        let first = tables.lease(context, unit, way, &weights)?;
        drop(tables);
        let stall = waiting.map(|(since, cause)| {
            // A full ring shows only when a reader tries to place the unit.
            (Span::since(since), if ring_was_full { StallCause::RingFull } else { cause })
        });
        Ok(Acquired { weights, stall, first })
    }

    /// A lease has ended; everything that reads its weights has been issued.
    pub(super) fn release(&self, plan: &Arc<Planned>, unit: UnitId, weights: Arc<Weights>, done: Ticket) {
        self.lock().release(&self.context, plan, unit, weights, done);
    }

    /// A lease was dropped, and kernels that read its weights may still be running: keeps them until the pass
    /// ends.
    pub(super) fn quarantine(&self, plan: &Arc<Planned>, unit: UnitId, weights: Arc<Weights>) {
        self.lock().quarantine(plan, unit, weights);
    }

    /// Makes a reader read rows ahead of everything else, and waits for them.
    pub(super) fn read_rows(&self, name: &Arc<str>, rows: Rows) -> Answer {
        let reply = Arc::clone(&rows.reply);
        let mut tables = self.lock();
        tables.queue_rows(name, rows);
        self.context.work.notify_one();
        loop {
            if let Some(answer) = reply.take() {
                return answer;
            }
            tables = self.context.ready.wait(tables).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a pass: nothing of it is held any more, and the next position begins a pass.
    pub(super) fn end_pass(&self) -> Result<(), Error> {
        let mut tables = self.lock();
        tables.let_go(&self.context);
        tables.end_pass();
        let kept = tables.end_quarantine();
        drop(tables);
        let result = quarantine_after_kernels(&*self.context.device, &kept);
        drop(kept);
        self.context.work.notify_all();
        result.map_err(Error::from)
    }

    /// Lets the readers advance by this many positions.
    pub(super) fn open(&self, positions: u64) {
        self.lock().open(positions);
        self.context.work.notify_all();
    }

    /// Gives back what leases left that ended after their pass.
    pub(super) fn settle_leases(&self) {
        self.settle(&mut self.lock());
    }

    /// Ends all reads and drops streamed units; fully loaded residents stay. Nothing is read while the tables
    /// are locked.
    pub(super) fn drain(&self) -> MutexGuard<'_, Tables> {
        let mut tables = self.lock();
        self.settle(&mut tables);
        tables.stop_reading();
        while !is_drained(tables.busy_readers()) {
            tables = self.context.ready.wait(tables).unwrap_or_else(PoisonError::into_inner);
        }
        tables.renew_jobs();
        tables
    }

    /// Ends all reads, then the readers.
    pub(super) fn stop(&self) {
        self.drain().stop();
        self.context.work.notify_all();
    }

    fn settle(&self, tables: &mut Tables) {
        tables.let_go(&self.context);
        let kept = tables.end_quarantine();
        late_quarantine_after_kernels(&*self.context.device, &kept);
    }
}
