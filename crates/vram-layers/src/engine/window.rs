//! The part of the trace that is fetched ahead of the computing thread.

use std::collections::VecDeque;

use super::slot::Slot;
use crate::error::Error;
use crate::plan::compose::Planned;
use crate::plan::partition::UnitId;

#[derive(Default)]
pub(super) struct Window {
    // Invariants:
    // 1. Position p of the endless trace is unit `plan.trace[p % len]`; `entries[i]` is position `base + i`.
    //    Positions are issued in order, so a later one never takes ring space before an earlier one.
    // 2. `base` is the next position to be leased; nothing at or past `end` is issued.
    // 3. While a stray is loading nothing else is issued: it may need the whole ring.
    base: u64,
    end: u64,
    /// `None` for a resident, whose slot is in the store.
    entries: VecDeque<Option<Slot>>,
    /// A unit that is not in the trace; `Some(None)` until a reader has issued it.
    stray: Option<Option<Slot>>,
    /// What the computing thread waits for and has not been issued, and the outcome.
    wanted: Option<Wanted>,
    ring_is_full: bool,
    refused: Option<Error>,
}

/// What the computing thread waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) unit: UnitId,
    /// Whether it is out of turn.
    pub(super) stray: bool,
}

impl Window {
    /// At the start of a plan's trace.
    pub(super) fn new(plan: &Planned) -> Window {
        // As many entries as two passes have, so that nothing is allocated while a pass runs.
        Window { entries: VecDeque::with_capacity(plan.trace.len() * 2 + 1), ..Window::default() }
    }

    /// Lets this many more positions be issued.
    pub(super) fn open(&mut self, positions: u64) {
        self.end = self.base + positions;
    }

    /// Lets at least the next position be issued.
    pub(super) fn open_next(&mut self) {
        self.end = self.end.max(self.base + 1);
    }

    /// Lets no more positions be issued.
    pub(super) fn close(&mut self) {
        self.end = self.base;
    }

    /// The next position to issue and its unit, if any.
    pub(super) fn next(&self, plan: &Planned) -> Option<(u64, UnitId)> {
        let position = self.base + self.entries.len() as u64;
        let issue = position < self.end && self.stray.is_none();
        issue.then(|| Some((position, unit_at(plan, position)?))).flatten()
    }

    /// Notes that the next position was issued.
    pub(super) fn push(&mut self, slot: Option<Slot>) {
        self.entries.push_back(slot);
    }

    /// Whether a unit is the next to be leased.
    pub(super) fn expects(&self, plan: &Planned, unit: UnitId) -> bool {
        unit_at(plan, self.base) == Some(unit)
    }

    /// Whether a position is the next to be leased, or was.
    pub(super) fn is_due(&self, position: u64) -> bool {
        position <= self.base
    }

    /// How many positions ahead the unit comes next.
    pub(super) fn ahead(&self, plan: &Planned, unit: UnitId) -> Option<u64> {
        (0..plan.trace.len() as u64).find(|ahead| unit_at(plan, self.base + ahead) == Some(unit))
    }

    /// Positions from the next one to the start of a pass.
    pub(super) fn left_of_pass(&self, plan: &Planned) -> u64 {
        let len = plan.trace.len() as u64;
        match self.base.checked_rem(len) {
            None | Some(0) => 0,
            Some(done) => len - done,
        }
    }

    /// Advances by this many positions. Returns the loads that were in progress for them.
    #[must_use]
    pub(super) fn skip(&mut self, count: u64) -> Vec<u64> {
        let fetched = (count as usize).min(self.entries.len());
        self.base += count;
        self.entries.drain(..fetched).filter_map(|slot| slot?.load()).collect()
    }

    /// Drops everything that was fetched ahead, without moving. Returns the loads in progress.
    #[must_use]
    pub(super) fn clear(&mut self) -> Vec<u64> {
        self.stray = None;
        self.entries.drain(..).filter_map(|slot| slot?.load()).collect()
    }

    /// Advances by one position, whose unit was taken. A resident may not have been issued in its turn.
    pub(super) fn advance(&mut self) -> Option<Slot> {
        self.base += 1;
        self.entries.pop_front().flatten()
    }

    /// What was fetched for the next position.
    pub(super) fn front_mut(&mut self) -> Option<&mut Slot> {
        self.entries.front_mut()?.as_mut()
    }

    /// What was fetched for a position that has not been leased yet.
    pub(super) fn at_mut(&mut self, position: u64) -> Option<&mut Slot> {
        let index = usize::try_from(position.checked_sub(self.base)?).ok()?;
        self.entries.get_mut(index)?.as_mut()
    }

    /// Lets nothing else be issued until a stray has been taken.
    pub(super) fn begin_stray(&mut self) {
        self.stray = Some(None);
    }

    pub(super) fn put_stray(&mut self, slot: Slot) {
        self.stray = Some(Some(slot));
    }

    pub(super) fn stray_mut(&mut self) -> Option<&mut Slot> {
        self.stray.as_mut()?.as_mut()
    }

    /// Takes the stray out, so that readers continue with the trace.
    pub(super) fn end_stray(&mut self) -> Option<Slot> {
        self.stray.take().flatten()
    }

    /// The computing thread waits for something that has not been issued.
    pub(super) fn want(&mut self, wanted: Wanted) {
        self.wanted = Some(wanted);
    }

    pub(super) fn wanted(&self) -> Option<Wanted> {
        self.wanted
    }

    /// There was no room for it; it is tried again when a reader is done or a lease ends.
    pub(super) fn found_no_room(&mut self) {
        self.ring_is_full = true;
    }

    /// What was wanted has been issued, or cannot be.
    pub(super) fn answer(&mut self, refused: Option<Error>) {
        self.wanted = None;
        if refused.is_some() {
            self.refused = refused;
        }
    }

    /// Why what was wanted cannot be issued.
    pub(super) fn take_refusal(&mut self) -> Option<Error> {
        self.refused.take()
    }

    /// The wait is over; what was wanted arrived or is given up. Returns whether there was no room for a
    /// while.
    pub(super) fn end_wait(&mut self) -> bool {
        (self.wanted, self.refused) = (None, None);
        std::mem::take(&mut self.ring_is_full)
    }
}

fn unit_at(plan: &Planned, position: u64) -> Option<UnitId> {
    let at = position.checked_rem(plan.trace.len() as u64)?;
    plan.trace.get(at as usize).copied()
}
