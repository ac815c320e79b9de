//! Runs several forwards over one pass, layer by layer, so that each weight is fetched once for all of them.
//!
//! Each forward is ordinary code on its own thread, and they take turns. One runs until it reaches a layer,
//! then the next one does. When all have reached it, the first leases it, each computes with it, and the last
//! gives it back. Kernels are called once for each forward and rows are never combined, so every forward
//! gives the same bits as alone. Turns depend on nothing but the layers, so a dry run in turns measures the
//! workspace of the real one to the byte.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vram_device::Ticket;

use crate::engine::Lease;
use crate::error::Error;
use crate::spec::LayerId;

/// Whose turn it is, and what the forwards share.
struct Table {
    state: Mutex<State>,
    changed: Condvar,
    lease: Mutex<Option<Lease>>,
}

struct State {
    turn: usize,
    /// The layer that each forward has reached; `None` once it is done.
    at: Vec<Option<Option<LayerId>>>,
    /// Some forward failed, so the others stop.
    failed: bool,
}

impl State {
    /// The next seat still taken after this one; this one if it is the last.
    fn next(&self, seat: usize) -> usize {
        let seats = self.at.len();
        let next = (1..seats).map(|i| (seat + i) % seats).find(|i| self.at[*i].is_some());
        next.unwrap_or(seat)
    }
}

/// Runs `f` for each of `seats` forwards on its own thread, one at a time.
pub(crate) fn in_turns<R: Send>(
    seats: usize,
    f: impl Fn(Seat<'_>, usize) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let table = Table::new(seats);
    let one = |index| {
        let (seat, leave) = Seat::take(&table, index);
        let result = f(seat, index);
        if result.is_ok() {
            leave.well();
        }
        result
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..seats).map(|index| scope.spawn(move || one(index))).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut ok = Vec::with_capacity(seats);
    let mut error = None;
    for result in results {
        match result {
            // As if it had panicked on this thread.
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(Ok(result)) => ok.push(result),
            // A forward that was stopped because another failed has nothing to report.
            Ok(Err(Error::Cancelled)) if error.is_some() => {}
            Ok(Err(e)) if matches!(error, None | Some(Error::Cancelled)) => error = Some(e),
            Ok(Err(_)) => {}
        }
    }
    error.map_or(Ok(ok), Err)
}

impl Table {
    /// A table for `seats` forwards.
    fn new(seats: usize) -> Table {
        let state = State { turn: 0, at: vec![Some(None); seats], failed: false };
        Table { state: Mutex::new(state), changed: Condvar::new(), lease: Mutex::new(None) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Changed in single steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A forward's place; leaving it passes the turn on.
#[derive(Clone, Copy)]
pub(crate) struct Seat<'t> {
    table: &'t Table,
    index: usize,
    seats: usize,
}

/// Records at the end whether the forward succeeded; if it is dropped by a panic, it did not.
struct Leave<'t> {
    table: &'t Table,
    index: usize,
    well: bool,
}

impl<'t> Seat<'t> {
    /// Takes a place and waits for the first turn.
    fn take(table: &'t Table, index: usize) -> (Seat<'t>, Leave<'t>) {
        let mut state = table.state();
        let seats = state.at.len();
        while state.turn != index {
            state = table.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (Seat { table, index, seats }, Leave { table, index, well: false })
    }

    /// Passes the turn on, and waits until it comes back.
    pub(crate) fn pass_on(&self) -> Result<(), Error> {
        let mut state = self.table.state();
        state.turn = state.next(self.index);
        self.table.changed.notify_all();
        while state.turn != self.index {
            state = self.table.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Waits until all have reached a layer.
    pub(crate) fn meet(&self, layer: LayerId) -> Result<(), Error> {
        let mut state = self.table.state();
        let left = state.at.iter().any(Option::is_none);
        state.at[self.index] = Some(Some(layer));
        drop(state);
        self.pass_on()?;
        // The first to continue sees all of them here; the others may find it further on, or done.
        let differ = self.index == 0 && self.table.state().at.iter().any(|at| *at != Some(Some(layer)));
        if left || differ {
            return Err(Error::Model(
                "forwards that run together must use the same layers in the same order".into(),
            ));
        }
        Ok(())
    }

    /// Takes turns to compute with one lease: the first forward takes it, the last gives it back.
    pub(crate) fn share(
        &self,
        lease: impl FnOnce() -> Result<Lease, Error>,
        f: impl FnOnce(&Lease) -> Result<(), Error>,
        done: impl FnOnce() -> Result<Ticket, Error>,
    ) -> Result<(), Error> {
        let mut shared = self.table.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if self.index == 0 {
            *shared = Some(lease()?);
        }
        let Some(held) = &*shared else { return Err(Error::Cancelled) };
        f(held)?;
        if self.index + 1 == self.seats
            && let Some(held) = shared.take()
        {
            held.finish(done()?);
        }
        drop(shared);
        self.pass_on()
    }
}

impl Leave<'_> {
    /// The forward succeeded.
    fn well(mut self) {
        self.well = true;
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut state = self.table.state();
        state.at[self.index] = None;
        state.failed |= !self.well;
        state.turn = state.next(self.index);
        self.table.changed.notify_all();
    }
}
