//! What the reader threads and the computing thread share: which weights are where, and what is to be read next.
//!
//! One mutex guards all of it. Lock order: this mutex, then an arena's, then a budget's; none is held during a read.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use vram_device::{Arena, Budget, Device, Reservation, Ticket};
use vram_types::{CancelToken, Priority, WeightSource};

use super::EngineOptions;
use super::job::{Job, Place};
use super::load::HostCopy;
use super::meter::Meter;
use super::slot::{Slot, Weights};
use crate::guard::{Guard, guard};
use crate::observe::{self, Observer};
use crate::plan::Planned;
use crate::spec::Layer;
use crate::state::{Event, State, transition};
use crate::sync::atomic::AtomicBool;
use crate::sync::{Condvar, Mutex, MutexGuard};
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
pub(super) struct Held {
    pub(super) unit: UnitId,
    pub(super) weights: Arc<Weights>,
    pub(super) leases: usize,
    /// The last ticket of the leases that are over.
    pub(super) done: Option<Ticket>,
}

/// Weights that a finished lease gave back, kept until another unit is asked for: uses in a row count as one.
pub(super) struct Sticky {
    pub(super) unit: UnitId,
    pub(super) weights: Arc<Weights>,
    pub(super) done: Ticket,
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
    pub(super) wanted: Option<(UnitId, bool)>,
    pub(super) no_room: bool,
    pub(super) refused: Option<Error>,
    states: Vec<State>,
    /// Units under lease: few at a time.
    pub(super) held: Vec<Held>,
    /// The unit that was leased last.
    pub(super) last: Option<UnitId>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) busy: usize,
    pub(super) cancel: CancelToken,
    next_load: u64,
    pub(super) ring: Option<Arena>,
    /// What is reserved for residents that are still to come, on the device and on the host.
    pub(super) room: Option<Reservation>,
    pub(super) host_room: Option<Reservation>,
    pub(super) sticky: Option<Sticky>,
    pub(super) quarantine: Vec<Arc<Weights>>,
    /// Residents whose bytes a pass has reported.
    counted: Vec<bool>,
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

    /// Whether what a job brings is what the computing thread needs next.
    pub(super) fn priority(&self, place: Place) -> Priority {
        let next = match place {
            Place::Position(position) => position <= self.base,
            Place::Resident(unit) => self.expects(unit),
            Place::Stray => true,
        };
        if next { Priority::Urgent } else { Priority::ReadAhead }
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

    /// Bytes that units hold in host memory, or are about to.
    pub(super) fn host_bytes(&self) -> u64 {
        let there: u64 = self.host.iter().flatten().map(HostCopy::bytes).sum();
        there + self.host_room.as_ref().map_or(0, Reservation::bytes)
    }

    /// Units that are in host memory, by unit.
    pub(crate) fn take_host(&mut self) -> Vec<Option<HostCopy>> {
        std::mem::take(&mut self.host)
    }

    pub(super) fn apply(&mut self, unit: UnitId, event: Event) -> Result<(), Error> {
        let state = self.states[unit.0];
        self.states[unit.0] = transition(state, event)?.0;
        Ok(())
    }

    /// Moves `base` on by `count` positions and drops what was fetched for those passed over.
    pub(super) fn skip(&mut self, count: u64) {
        let fetched = (count as usize).min(self.entries.len());
        let dropped: Vec<u64> = self.entries.drain(..fetched).filter_map(|e| e.slot?.loading_id()).collect();
        self.jobs.retain(|job| !dropped.contains(&job.load));
        self.base += count;
    }

    pub(super) fn drop_streamed(&mut self) {
        let fetched = self.entries.len() as u64;
        let base = self.base;
        self.skip(fetched);
        self.base = base;
        self.stray = None;
    }
}
