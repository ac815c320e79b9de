//! What the reader threads and the computing thread share: which weights are where, and what is to be read next.
//!
//! One mutex guards all of it. Lock order: this mutex, then an arena's, then a budget's; none is held during a read.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use vram_device::{Arena, Budget, Device, Reservation, Ticket};
use vram_types::{CancelToken, WeightSource};

use super::EngineOptions;
use super::job::{Job, Place};
use super::load::HostCopy;
use super::meter::Meter;
use super::slot::{Slot, Weights, retire};
use crate::guard::{Guard, guard};
use crate::observe::{self, Observer, Span, StallCause};
use crate::plan::Planned;
use crate::spec::Layer;
use crate::state::{Event, State, transition};
use crate::{Error, UnitId};

pub(crate) struct Shared {
    pub(crate) source: Arc<dyn WeightSource>,
    pub(crate) device: Arc<dyn Device>,
    pub(crate) layers: Vec<Layer>,
    /// Largest single read in bytes, a multiple of the source's alignment.
    pub(crate) piece: u64,
    /// Whether the source gives windows of a memory map.
    pub(crate) mapped: bool,
    pub(crate) budget: Budget,
    pub(crate) host_budget: Budget,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) disk: Meter,
    pub(crate) bus: Meter,
    /// Passes are being measured: copies are waited for one by one.
    pub(crate) calibrating: AtomicBool,
    fetch: Mutex<Fetch>,
    /// Readers wait here for something to read or for room in the ring.
    pub(crate) work: Condvar,
    /// The computing thread waits here for weights.
    pub(crate) ready: Condvar,
}

pub(super) struct Entry {
    /// `None` for a resident, whose slot is in `residents`.
    pub(super) slot: Option<Slot>,
}

/// A unit under lease.
struct Held {
    unit: UnitId,
    weights: Arc<Weights>,
    leases: usize,
    /// The last ticket of the leases that are over.
    done: Option<Ticket>,
}

/// Weights that a finished lease gave back, kept until another unit is asked for: uses in a row count as one.
struct Sticky {
    unit: UnitId,
    weights: Arc<Weights>,
    done: Ticket,
}

pub(crate) struct Fetch {
    // Invariants:
    // 1. Position p of the endless trace is unit `plan.trace[p % len]`; `entries[i]` is position `base + i`, and
    //    positions are issued in order, so nothing later stands in the ring before something earlier.
    // 2. `base` is the next position to be leased; nothing at or past `end` is issued.
    // 3. A slot that is `Loading` has `left` jobs in `jobs` or at readers, all with its `load`.
    pub(crate) plan: Arc<Planned>,
    pub(crate) stop: bool,
    pub(crate) base: u64,
    pub(crate) end: u64,
    pub(super) entries: VecDeque<Entry>,
    pub(super) residents: Vec<Option<Slot>>,
    /// Units in host memory, or on their way there.
    pub(super) host: Vec<Option<HostCopy>>,
    pub(super) stray: Option<Entry>,
    /// What the computing thread waits for and nobody has issued, and what came of it.
    wanted: Option<(UnitId, bool)>,
    no_room: bool,
    refused: Option<Error>,
    states: Vec<State>,
    /// Units under lease: few at a time.
    held: Vec<Held>,
    /// The unit that was leased last.
    last: Option<UnitId>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) busy: usize,
    pub(super) cancel: CancelToken,
    next_load: u64,
    pub(super) ring: Option<Arena>,
    /// What is reserved for residents that are still to come, on the device and on the host.
    pub(super) room: Option<Reservation>,
    pub(super) host_room: Option<Reservation>,
    sticky: Option<Sticky>,
    quarantine: Vec<Arc<Weights>>,
    /// Residents whose bytes a pass has reported.
    counted: Vec<bool>,
}

/// What the computing thread waited for.
pub(crate) struct Acquired {
    pub(crate) weights: Arc<Weights>,
    /// For how long it waited, and why.
    pub(crate) stall: Option<(Span, StallCause)>,
    /// Whether these are the weights of the lease before, which have been counted.
    pub(crate) again: bool,
}

pub(crate) enum Issued {
    /// Something new is on its way.
    Yes,
    /// The ring has no room.
    NoRoom,
    /// Nothing more is wanted now.
    Enough,
}

impl Shared {
    pub(crate) fn new(
        source: Arc<dyn WeightSource>,
        device: Arc<dyn Device>,
        layers: Vec<Layer>,
        (piece, mapped): (u64, bool),
        options: &EngineOptions,
    ) -> Shared {
        Shared {
            source,
            device,
            layers,
            piece,
            mapped,
            budget: options.budget.clone(),
            host_budget: options.host_budget.clone(),
            observer: options.observer.clone(),
            disk: Meter::default(),
            bus: Meter::default(),
            calibrating: AtomicBool::new(false),
            fetch: Mutex::new(Fetch {
                plan: Arc::default(),
                stop: false,
                base: 0,
                end: 0,
                entries: VecDeque::new(),
                residents: Vec::new(),
                host: Vec::new(),
                stray: None,
                wanted: None,
                no_room: false,
                refused: None,
                states: Vec::new(),
                held: Vec::with_capacity(4),
                last: None,
                jobs: VecDeque::new(),
                busy: 0,
                cancel: CancelToken::new(),
                next_load: 0,
                ring: None,
                room: None,
                host_room: None,
                sticky: None,
                quarantine: Vec::new(),
                counted: Vec::new(),
            }),
            work: Condvar::new(),
            ready: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Fetch> {
        // A panic can only come from a user's code, which never runs under this lock.
        self.fetch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who listens.
    pub(crate) fn tell(&self, event: &observe::Event<'_>) {
        if let Some(observer) = &self.observer {
            observer.event(event);
        }
    }

    /// Issues the next position, if there is one and it fits.
    pub(crate) fn issue_next(&self, f: &mut Fetch) -> Issued {
        let position = f.base + f.entries.len() as u64;
        let plan = Arc::clone(&f.plan);
        if position >= f.end || plan.trace.is_empty() || f.stray.is_some() {
            return Issued::Enough;
        }
        let unit = plan.trace[(position % plan.trace.len() as u64) as usize];
        if plan.resident[unit.0] {
            if f.residents[unit.0].is_none() {
                let Some(slot) = self.load_resident(f, &plan, unit) else { return Issued::NoRoom };
                f.residents[unit.0] = Some(slot);
            }
            f.entries.push_back(Entry { slot: None });
            return Issued::Yes;
        }
        match self.load_streamed(f, &plan, unit, Place::Position(position)) {
            Some(slot) => {
                f.entries.push_back(Entry { slot: Some(slot) });
                Issued::Yes
            }
            None => Issued::NoRoom,
        }
    }

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
                    match (std::mem::take(&mut f.no_room), resident, stray || !expected) {
                        (true, _, _) => StallCause::RingFull,
                        (false, true, _) => StallCause::FirstLoad,
                        (false, false, true) => StallCause::Departure,
                        (false, false, false) => StallCause::Disk,
                    }
                }
            };
            // The first cause is what the wait is for, but for a full ring, which is known only when it was tried.
            let (_, first) = waiting.get_or_insert_with(|| (Instant::now(), cause));
            if cause == StallCause::RingFull {
                *first = cause;
            }
            f = self.ready.wait(f).unwrap_or_else(PoisonError::into_inner);
        };
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

    /// On a reader: issues what the computing thread waits for and nobody has issued. Whether there was anything.
    pub(super) fn issue_wanted(&self, f: &mut Fetch) -> bool {
        let Some((unit, stray)) = f.wanted.take() else { return false };
        if f.slot_of(unit, stray).is_none() {
            match self.issue_for(f, unit, stray) {
                Ok(true) => {}
                Ok(false) => f.no_room = true,
                Err(e) => f.refused = Some(e),
            }
            self.ready.notify_all();
        }
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
    fn let_go(&self, f: &mut Fetch) {
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

    /// Ends a pass: nothing of it is held any more, and the next position is the beginning of a pass.
    pub(crate) fn end_pass(&self) -> Result<(), Error> {
        let mut f = self.lock();
        self.let_go(&mut f);
        f.last = None;
        let kept = std::mem::take(&mut f.quarantine);
        let len = f.plan.trace.len() as u64;
        if len > 0 && !f.base.is_multiple_of(len) {
            let ahead = len - f.base % len;
            f.skip(ahead);
        }
        f.stray = None;
        drop(f);
        let result = if kept.is_empty() || !guard(Guard::QuarantineWait) {
            Ok(())
        } else {
            self.device.ticket(vram_device::Queue::Compute).and_then(|t| self.device.wait(t))
        };
        drop(kept);
        self.work.notify_all();
        result.map_err(Error::from)
    }

    /// Lets the readers go on to position `end`.
    pub(crate) fn open_until(&self, positions: u64) {
        let mut f = self.lock();
        f.end = f.base + positions;
        drop(f);
        self.work.notify_all();
    }

    /// Gives back what leases held that were dropped after their pass.
    pub(crate) fn end_quarantine(&self, f: &mut Fetch) {
        let kept = std::mem::take(&mut f.quarantine);
        if !kept.is_empty() && guard(Guard::LateQuarantineWait) {
            // A device that fails here says so again at the next pass.
            let _ = self.device.ticket(vram_device::Queue::Compute).and_then(|t| self.device.wait(t));
        }
    }

    /// Stops all reads and drops what streamed; residents that are whole stay.
    pub(crate) fn drain(&self) -> MutexGuard<'_, Fetch> {
        let mut f = self.lock();
        f.end = f.base;
        f.sticky = None;
        self.end_quarantine(&mut f);
        f.cancel.cancel();
        f.drop_streamed();
        f.jobs.clear();
        for unit in 0..f.residents.len() {
            if !matches!(f.residents[unit], Some(Slot::Ready(_)) | None) {
                f.residents[unit] = None;
                let _ = f.apply(UnitId(unit), Event::Evict);
            }
        }
        while f.busy > 0 && guard(Guard::Drain) {
            f = self.ready.wait(f).unwrap_or_else(PoisonError::into_inner);
        }
        f.cancel = CancelToken::new();
        f
    }
}

impl Fetch {
    pub(crate) fn cancel_token(&self) -> CancelToken {
        self.cancel.clone()
    }

    pub(crate) fn new_load(&mut self) -> u64 {
        self.next_load += 1;
        self.next_load
    }

    pub(crate) fn states(&self) -> &[State] {
        &self.states
    }

    pub(crate) fn counted(&self) -> Vec<bool> {
        self.counted.clone()
    }

    pub(crate) fn mark_counted(&mut self, unit: UnitId) {
        self.counted[unit.0] = true;
    }

    /// Puts another plan in force. Only after `drain`.
    pub(crate) fn install(
        &mut self,
        plan: Arc<Planned>,
        (kept, host): (Vec<Option<Arc<Weights>>>, Vec<Option<HostCopy>>),
        ring: Option<Arena>,
        (room, host_room): (Option<Reservation>, Option<Reservation>),
    ) {
        self.host = host;
        self.held.clear();
        self.last = None;
        self.counted = kept.iter().map(Option::is_some).collect();
        self.states =
            kept.iter().map(|k| if k.is_some() { State::Preparing } else { State::Onload }).collect();
        self.residents = kept.into_iter().map(|k| k.map(Slot::Ready)).collect();
        self.entries = VecDeque::with_capacity(plan.trace.len() * 2 + 1);
        self.base = 0;
        self.end = 0;
        self.ring = ring;
        self.room = room;
        self.host_room = host_room;
        self.plan = plan;
    }

    /// Residents that are whole, by unit.
    pub(crate) fn take_residents(&mut self) -> Vec<Option<Arc<Weights>>> {
        let residents = std::mem::take(&mut self.residents);
        residents
            .into_iter()
            .map(|slot| match slot {
                Some(Slot::Ready(weights)) => Some(weights),
                _ => None,
            })
            .collect()
    }

    /// Frees the ring and what was reserved for residents that never came.
    pub(crate) fn drop_memory(&mut self) {
        self.ring = None;
        self.room = None;
        self.host_room = None;
    }

    /// Whether a resident is on the device.
    pub(super) fn is_there(&self, unit: UnitId) -> bool {
        matches!(self.residents.get(unit.0), Some(Some(Slot::Ready(_))))
    }

    /// Frees a resident. Whether there was one.
    pub(super) fn evict(&mut self, unit: UnitId) -> bool {
        let there = self.residents.get_mut(unit.0).and_then(Option::take).is_some();
        there && self.apply(unit, Event::Evict).is_ok()
    }

    /// Bytes that a pass which follows the plan puts on the device: residents that no pass has used, and all that
    /// goes through the ring.
    pub(crate) fn planned_bytes(&self) -> u64 {
        let bytes = |unit: UnitId| self.plan.partition.units[unit.0].read_bytes();
        let mut counted = self.counted.clone();
        let trace = self.plan.trace.iter();
        trace
            .filter(|u| !self.plan.resident[u.0] || !std::mem::replace(&mut counted[u.0], true))
            .map(|u| bytes(*u))
            .sum()
    }

    /// Nobody waits any more; what was wanted came another way.
    fn forget_wanted(&mut self) {
        (self.wanted, self.no_room, self.refused) = (None, false, None);
    }

    /// Bytes that units hold in host memory, or are about to.
    pub(super) fn host_bytes(&self) -> u64 {
        let there: u64 = self.host.iter().flatten().map(HostCopy::bytes).sum();
        there + self.host_room.as_ref().map_or(0, Reservation::bytes)
    }

    /// Units that are in host memory, by unit.
    pub(crate) fn take_host(&mut self) -> Vec<Option<HostCopy>> {
        std::mem::take(&mut self.host)
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

    pub(super) fn apply(&mut self, unit: UnitId, event: Event) -> Result<(), Error> {
        let state = self.states[unit.0];
        self.states[unit.0] = transition(state, event)?.0;
        Ok(())
    }

    fn expects(&self, unit: UnitId) -> bool {
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

    /// Moves `base` on by `count` positions and drops what was fetched for those passed over.
    fn skip(&mut self, count: u64) {
        let fetched = (count as usize).min(self.entries.len());
        let dropped: Vec<u64> = self.entries.drain(..fetched).filter_map(|e| e.slot?.loading_id()).collect();
        self.jobs.retain(|job| !dropped.contains(&job.load));
        self.base += count;
    }

    fn drop_streamed(&mut self) {
        let fetched = self.entries.len() as u64;
        let base = self.base;
        self.skip(fetched);
        self.base = base;
        self.stray = None;
    }
}
