//! How the computing thread comes by the weights of a unit, and how it gives them back.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use vram_device::Ticket;

use super::fetch::{Entry, Fetch, Held, Issued, Shared, Sticky};
use super::job::Place;
use super::slot::{Slot, Weights, retire};
use crate::guard::{Guard, guard};
use crate::observe::{Span, StallCause};
use crate::plan::Planned;
use crate::state::Event;
use crate::{Error, UnitId};

/// What the computing thread waited for.
pub(crate) struct Acquired {
    pub(crate) weights: Arc<Weights>,
    /// For how long it waited, and why.
    pub(crate) stall: Option<(Span, StallCause)>,
    /// Whether these are the weights of the lease before, which have been counted.
    pub(crate) again: bool,
}

impl Shared {
    /// Waits for the weights of a unit and takes them.
    pub(crate) fn acquire(&self, unit: UnitId) -> Result<Acquired, Error> {
        let mut f = self.lock();
        if let Some(weights) = f.again(unit)? {
            return Ok(Acquired { weights, stall: None, again: true });
        }
        self.let_go(&mut f);
        // A resident is where it is: using it out of turn is no departure.
        let resident = f.plan.resident[unit.0];
        let expected = f.expects(unit);
        let stray = !expected && (resident || !self.depart(&mut f, unit));
        if stray && !resident {
            f.stray = Some(Entry { slot: None });
        }
        let mut waiting = None;
        let weights = loop {
            let cause = match f.slot_of(unit, stray) {
                Some(Slot::Ready(weights)) => break Arc::clone(weights),
                Some(Slot::Failed(_)) => {
                    f.forget_wanted();
                    return Err(f.take_failure(unit, stray));
                }
                Some(Slot::Loading { .. }) if resident => StallCause::FirstLoad,
                Some(Slot::Loading { .. }) if stray || !expected => StallCause::Departure,
                Some(Slot::Loading { disk_bytes: 0, .. }) => StallCause::Bus,
                Some(Slot::Loading { .. }) => StallCause::Disk,
                None => {
                    if let Some(e) = f.refused.take() {
                        // Readers go on with the trace.
                        f.stray = None;
                        return Err(e);
                    }
                    // A reader issues it: issuing allocates, which is not for the computing thread.
                    f.wanted = Some((unit, stray));
                    self.work.notify_all();
                    match (resident, stray || !expected) {
                        (true, _) => StallCause::FirstLoad,
                        (false, true) => StallCause::Departure,
                        (false, false) => StallCause::Disk,
                    }
                }
            };
            // The first cause is what the wait is for, but for a full ring, which is known only when it was tried.
            waiting.get_or_insert_with(|| (Instant::now(), cause));
            f = self.ready.wait(f).unwrap_or_else(PoisonError::into_inner);
        };
        if let (Some((_, cause)), true) = (&mut waiting, f.no_room) {
            *cause = StallCause::RingFull;
        }
        f.forget_wanted();
        f.apply(unit, Event::Acquire)?;
        f.hold(unit, &weights);
        if stray {
            f.stray = None;
            self.work.notify_all();
        } else if resident && f.entries.is_empty() {
            f.base += 1;
        } else {
            f.entries.pop_front();
            f.base += 1;
        }
        drop(f);
        let stall = waiting.map(|(since, cause)| (Span::since(since), cause));
        Ok(Acquired { weights, stall, again: false })
    }

    /// On a reader: issues what the computing thread waits for and nobody has issued. Whether there was anything to do.
    /// What finds no room is tried again when a reader is done or a lease ends.
    pub(super) fn issue_wanted(&self, f: &mut Fetch) -> bool {
        let Some((unit, stray)) = f.wanted else { return false };
        if f.slot_of(unit, stray).is_none() {
            match self.issue_for(f, unit, stray) {
                Ok(true) => {}
                Ok(false) => {
                    f.no_room = true;
                    return false;
                }
                Err(e) => f.refused = Some(e),
            }
            self.ready.notify_all();
        }
        f.wanted = None;
        true
    }

    /// Issues a unit. Whether there was room, or there may be some once a reader is done.
    fn issue_for(&self, f: &mut Fetch, unit: UnitId, stray: bool) -> Result<bool, Error> {
        let plan = Arc::clone(&f.plan);
        let no_room = if plan.resident[unit.0] {
            match self.load_resident(f, &plan, unit) {
                Some(slot) => {
                    f.residents[unit.0] = Some(slot);
                    false
                }
                None => true,
            }
        } else if stray {
            match self.load_streamed(f, &plan, unit, Place::Stray) {
                Some(slot) => {
                    f.stray = Some(Entry { slot: Some(slot) });
                    false
                }
                None => true,
            }
        } else {
            f.end = f.end.max(f.base + 1);
            match self.issue_next(f) {
                Issued::Yes => false,
                Issued::NoRoom => true,
                Issued::Enough => return Err(Error::Model("the pass waits for what nobody fetches".into())),
            }
        };
        if !no_room {
            self.work.notify_all();
            return Ok(true);
        }
        if f.busy == 0 && f.jobs.is_empty() {
            // Only leases that are still held can be in the way, and they are held by who is waiting here.
            return Err(Error::Unsupported(format!(
                "unit {:?} ({} bytes) finds no room in a ring of {} bytes beside the leases that are still held; finish them first",
                plan.partition.units[unit.0].name, plan.partition.units[unit.0].bytes, plan.data.ring_bytes
            )));
        }
        Ok(false)
    }

    /// The pass has left the trace: goes on where the trace next has the unit. `false` if it has not at all.
    fn depart(&self, f: &mut Fetch, unit: UnitId) -> bool {
        let len = f.plan.trace.len() as u64;
        let ahead = (0..len).find(|i| f.plan.trace[((f.base + i) % len) as usize] == unit);
        tracing::debug!(unit = unit.0, ?ahead, "the pass departs from the trace");
        match ahead {
            Some(ahead) => {
                f.skip(ahead);
                f.end = f.end.max(f.base + 1);
                true
            }
            None => {
                f.drop_streamed();
                false
            }
        }
    }

    /// Gives back what the last lease left.
    pub(super) fn let_go(&self, f: &mut Fetch) {
        if let Some(Sticky { weights, done, .. }) = f.sticky.take() {
            retire(weights, done);
            self.work.notify_all();
        }
    }

    /// A lease ended with everything issued that reads its weights.
    pub(crate) fn release(&self, plan: &Arc<Planned>, unit: UnitId, weights: Arc<Weights>, done: Ticket) {
        let mut f = self.lock();
        if !Arc::ptr_eq(&f.plan, plan) && guard(Guard::PlanOfLease) {
            // The lease outlived its plan, and the unit's number means another one by now.
            return retire(weights, done);
        }
        drop(weights);
        let Some((weights, done)) = f.end_lease(unit, Some(done)) else { return };
        let event = if f.plan.resident[unit.0] { Event::ReleaseResident } else { Event::ReleaseStreamed };
        if let (Ok(()), Some(done)) = (f.apply(unit, event), done)
            && event == Event::ReleaseStreamed
        {
            self.let_go(&mut f);
            f.sticky = Some(Sticky { unit, weights, done });
        }
    }

    /// A lease was dropped, and kernels that read its weights may be anywhere: keep them until the pass ends.
    pub(crate) fn quarantine(&self, plan: &Arc<Planned>, unit: UnitId, weights: Arc<Weights>) {
        let mut f = self.lock();
        let of_plan = Arc::ptr_eq(&f.plan, plan) || !guard(Guard::PlanOfLease);
        if of_plan && f.end_lease(unit, None).is_some() {
            let event = if f.plan.resident[unit.0] { Event::ReleaseResident } else { Event::ReleaseStreamed };
            let _ = f.apply(unit, event);
        }
        if guard(Guard::Quarantine) {
            f.quarantine.push(weights);
        }
    }
}

impl Fetch {
    /// Nobody waits any more; what was wanted came another way.
    fn forget_wanted(&mut self) {
        (self.wanted, self.no_room, self.refused) = (None, false, None);
    }

    /// The weights of a unit that is under lease, or whose last lease ended just now.
    fn again(&mut self, unit: UnitId) -> Result<Option<Arc<Weights>>, Error> {
        if let Some(sticky) = self.sticky.take_if(|s| s.unit == unit) {
            self.apply(unit, Event::Acquire)?;
            self.hold(unit, &sticky.weights);
            return Ok(Some(sticky.weights));
        }
        let Some(at) = self.held.iter().position(|h| h.unit == unit) else { return Ok(None) };
        self.held[at].leases += 1;
        let weights = Arc::clone(&self.held[at].weights);
        // Used again after another unit: the trace has it twice, and so do the entries.
        if self.last != Some(unit) && self.expects(unit) {
            self.skip(1);
        }
        self.last = Some(unit);
        Ok(Some(weights))
    }

    fn hold(&mut self, unit: UnitId, weights: &Arc<Weights>) {
        self.held.push(Held { unit, weights: Arc::clone(weights), leases: 1, done: None });
        self.last = Some(unit);
    }

    /// Ends one lease of a unit; what it held, if it was the last.
    fn end_lease(&mut self, unit: UnitId, done: Option<Ticket>) -> Option<(Arc<Weights>, Option<Ticket>)> {
        let at = self.held.iter().position(|h| h.unit == unit)?;
        let held = &mut self.held[at];
        held.leases -= 1;
        held.done = held.done.max(done);
        if held.leases > 0 && guard(Guard::LastLease) {
            return None;
        }
        let Held { weights, done, .. } = self.held.swap_remove(at);
        Some((weights, done))
    }

    pub(super) fn expects(&self, unit: UnitId) -> bool {
        let len = self.plan.trace.len() as u64;
        len > 0 && self.plan.trace[(self.base % len) as usize] == unit
    }

    fn slot_of(&mut self, unit: UnitId, stray: bool) -> Option<&mut Slot> {
        if self.plan.resident[unit.0] {
            return self.residents[unit.0].as_mut();
        }
        let entry = if stray { self.stray.as_mut() } else { self.entries.front_mut() };
        entry.and_then(|e| e.slot.as_mut())
    }

    /// Takes a failure out, so that the next attempt reads again.
    fn take_failure(&mut self, unit: UnitId, stray: bool) -> Error {
        let slot = if self.plan.resident[unit.0] {
            let _ = self.apply(unit, Event::Evict);
            self.residents[unit.0].take()
        } else if stray {
            self.stray.take().and_then(|e| e.slot)
        } else {
            self.base += 1;
            self.entries.pop_front().and_then(|e| e.slot)
        };
        match slot {
            Some(Slot::Failed(e)) => e,
            _ => Error::Model("a failure was lost".into()),
        }
    }
}
