//! What the reader threads and the computing thread share: which weights are where, and what is to be read next.
//!
//! One mutex guards all of it. Lock order: this mutex, then an arena's, then a budget's; none is held during a read.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use vram_device::{Arena, Device, Region, Reservation, Ticket};
use vram_types::{CancelToken, FileRange, WeightSource};

use super::job::{Fetched, Job, Place, Work, fill_jobs};
use super::slot::{Memory, Slot, Weights, retire};
use crate::partition::Unit;
use crate::plan::Plan;
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
    fetch: Mutex<Fetch>,
    /// Readers wait here for something to read or for room in the ring.
    pub(crate) work: Condvar,
    /// The computing thread waits here for weights.
    pub(crate) ready: Condvar,
}

struct Entry {
    /// `None` for a resident, whose slot is in `residents`.
    slot: Option<Slot>,
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
    pub(crate) plan: Arc<Plan>,
    pub(crate) stop: bool,
    pub(crate) base: u64,
    pub(crate) end: u64,
    entries: VecDeque<Entry>,
    residents: Vec<Option<Slot>>,
    stray: Option<Entry>,
    states: Vec<State>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) busy: usize,
    cancel: CancelToken,
    next_load: u64,
    ring: Option<Arena>,
    room: Option<Reservation>,
    sticky: Option<Sticky>,
    quarantine: Vec<Arc<Weights>>,
    /// A resident failed to load and took its reservation along: the plan has to be put in force anew.
    pub(crate) damaged: bool,
    /// Residents whose bytes a pass has reported.
    counted: Vec<bool>,
}

/// What the computing thread waited for.
pub(crate) struct Acquired {
    pub(crate) weights: Arc<Weights>,
    /// For how long it waited.
    pub(crate) stall: std::time::Duration,
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
        piece: u64,
        mapped: bool,
    ) -> Shared {
        Shared {
            source,
            device,
            layers,
            piece,
            mapped,
            fetch: Mutex::new(Fetch {
                plan: Arc::default(),
                stop: false,
                base: 0,
                end: 0,
                entries: VecDeque::new(),
                residents: Vec::new(),
                stray: None,
                states: Vec::new(),
                jobs: VecDeque::new(),
                busy: 0,
                cancel: CancelToken::new(),
                next_load: 0,
                ring: None,
                room: None,
                sticky: None,
                quarantine: Vec::new(),
                damaged: false,
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
                let slot = self.load_resident(f, &plan, unit);
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

    fn load_resident(&self, f: &mut Fetch, plan: &Plan, id: UnitId) -> Slot {
        let unit = &plan.partition.units[id.0];
        let room = f.room.as_mut().and_then(|room| room.split(unit.bytes));
        let Some(room) = room else {
            return Slot::Failed(Error::Model(format!("unit {:?} has no room reserved", unit.name)));
        };
        if let Err(e) = f.apply(id, Event::Prepare) {
            return Slot::Failed(e);
        }
        match self.device.allocate(room) {
            Ok(buffer) => self.fill(f, unit, buffer.into_region(), Place::Resident(id)),
            Err(e) => Slot::Failed(e.into()),
        }
    }

    fn load_streamed(&self, f: &mut Fetch, plan: &Plan, id: UnitId, place: Place) -> Option<Slot> {
        let unit = &plan.partition.units[id.0];
        let align = self.source.alignment().max(64);
        let region = f.ring.as_ref()?.alloc(unit.bytes, align)?;
        if self.mapped && unit.packing.computed.is_empty() {
            return Some(self.map(f, unit, region, place));
        }
        Some(self.fill(f, unit, region, place))
    }

    /// Queues the reads that fill a region.
    fn fill(&self, f: &mut Fetch, unit: &Unit, region: Region, place: Place) -> Slot {
        let load = f.new_load();
        match fill_jobs(unit, &self.layers, region, self.piece, (place, load), &f.cancel) {
            Ok((jobs, memory)) => {
                let disk_bytes = jobs.iter().map(Job::bytes).sum();
                let left = jobs.len();
                f.jobs.extend(jobs);
                Slot::loading(load, left, memory, disk_bytes)
            }
            Err(e) => Slot::Failed(e),
        }
    }

    /// Queues the faulting-in of the windows of a map.
    fn map(&self, f: &mut Fetch, unit: &Unit, permit: Region, place: Place) -> Slot {
        let load = f.new_load();
        let mut windows = Vec::with_capacity(unit.packing.extents.len());
        for extent in &unit.packing.extents {
            let range = FileRange { file: extent.file, offset: extent.offset, bytes: extent.bytes };
            match self.source.map(range) {
                Some(Ok(window)) => windows.push(window),
                Some(Err(e)) => return Slot::Failed(e.into()),
                None => {
                    return Slot::Failed(Error::Unsupported(
                        "the source maps some of its files and not others".into(),
                    ));
                }
            }
        }
        for window in &windows {
            let work = Work::Prefault(Arc::clone(window));
            f.jobs.push_back(Job { place, load, work, cancel: f.cancel.clone() });
        }
        let disk_bytes = unit.packing.extents.iter().map(|e| e.bytes).sum();
        let left = windows.len();
        Slot::loading(load, left, Some(Memory::Mapped { windows, _permit: permit }), disk_bytes)
    }

    /// Books what a reader brought.
    pub(crate) fn complete(&self, f: &mut Fetch, place: Place, load: u64, result: Result<Fetched, Error>) {
        let base = f.base;
        let slot = match place {
            Place::Resident(unit) => f.residents.get_mut(unit.0).and_then(Option::as_mut),
            Place::Position(position) => position
                .checked_sub(base)
                .and_then(|i| f.entries.get_mut(usize::try_from(i).ok()?))
                .and_then(|e| e.slot.as_mut()),
            Place::Stray => f.stray.as_mut().and_then(|e| e.slot.as_mut()),
        };
        match slot {
            Some(slot) if slot.is_load(load) => {
                slot.advance(result);
            }
            // Nobody waits for it any more. A copy under way still writes the region, so it goes with its ticket.
            _ => {
                if let Ok(Fetched { region: Some(region), uploaded: Some(ticket) }) = result {
                    region.retire(ticket);
                }
            }
        }
    }

    /// Waits for the weights of a unit and takes them.
    pub(crate) fn acquire(&self, unit: UnitId) -> Result<Acquired, Error> {
        let mut f = self.lock();
        if let Some(sticky) = f.sticky.take_if(|s| s.unit == unit) {
            f.apply(unit, Event::Acquire)?;
            return Ok(Acquired { weights: sticky.weights, stall: std::time::Duration::ZERO, again: true });
        }
        self.let_go(&mut f);
        // A resident is where it is: using it out of turn is no departure.
        let resident = f.plan.resident[unit.0];
        let expected = f.expects(unit);
        let stray = !expected && (resident || !self.depart(&mut f, unit));
        if stray && !resident {
            f.stray = Some(Entry { slot: None });
        }
        let mut waiting_since = None;
        let weights = loop {
            match f.slot_of(unit, stray) {
                Some(Slot::Ready(weights)) => break Arc::clone(weights),
                Some(Slot::Failed(_)) => return Err(f.take_failure(unit, stray)),
                Some(Slot::Loading { .. }) => {}
                None => match self.issue_for(&mut f, unit, stray) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(e) => {
                        // Readers go on with the trace.
                        f.stray = None;
                        return Err(e);
                    }
                },
            }
            waiting_since.get_or_insert_with(std::time::Instant::now);
            f = self.ready.wait(f).unwrap_or_else(PoisonError::into_inner);
        };
        f.apply(unit, Event::Acquire)?;
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
        let stall = waiting_since.map_or(std::time::Duration::ZERO, |t| t.elapsed());
        Ok(Acquired { weights, stall, again: false })
    }

    /// Issues what the computing thread waits for, if the readers have not. Whether anything changed.
    fn issue_for(&self, f: &mut Fetch, unit: UnitId, stray: bool) -> Result<bool, Error> {
        let plan = Arc::clone(&f.plan);
        let no_room = if stray && plan.resident[unit.0] {
            let slot = self.load_resident(f, &plan, unit);
            f.residents[unit.0] = Some(slot);
            false
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
                plan.partition.units[unit.0].name, plan.partition.units[unit.0].bytes, plan.ring_bytes
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
    pub(crate) fn release(&self, plan: &Arc<Plan>, unit: UnitId, weights: Arc<Weights>, done: Ticket) {
        let mut f = self.lock();
        if !Arc::ptr_eq(&f.plan, plan) {
            // The lease outlived its plan, and the unit's number means another one by now.
            return retire(weights, done);
        }
        let event = if f.plan.resident[unit.0] { Event::ReleaseResident } else { Event::ReleaseStreamed };
        if f.apply(unit, event).is_ok() && event == Event::ReleaseStreamed {
            self.let_go(&mut f);
            f.sticky = Some(Sticky { unit, weights, done });
        }
    }

    /// A lease was dropped, and kernels that read its weights may be anywhere: keep them until the pass ends.
    pub(crate) fn quarantine(&self, plan: &Arc<Plan>, unit: UnitId, weights: Arc<Weights>) {
        let mut f = self.lock();
        if Arc::ptr_eq(&f.plan, plan) {
            let event = if f.plan.resident[unit.0] { Event::ReleaseResident } else { Event::ReleaseStreamed };
            let _ = f.apply(unit, event);
        }
        f.quarantine.push(weights);
    }

    /// Ends a pass: nothing of it is held any more, and the next position is the beginning of a pass.
    pub(crate) fn end_pass(&self) -> Result<(), Error> {
        let mut f = self.lock();
        self.let_go(&mut f);
        let kept = std::mem::take(&mut f.quarantine);
        let len = f.plan.trace.len() as u64;
        if len > 0 && !f.base.is_multiple_of(len) {
            let ahead = len - f.base % len;
            f.skip(ahead);
        }
        f.stray = None;
        drop(f);
        let result = if kept.is_empty() {
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

    /// Stops all reads and drops what streamed; residents that are whole stay.
    pub(crate) fn drain(&self) -> MutexGuard<'_, Fetch> {
        let mut f = self.lock();
        f.end = f.base;
        f.sticky = None;
        let kept = std::mem::take(&mut f.quarantine);
        if !kept.is_empty() {
            // Leases that were dropped after their pass. A device that fails here says so again at the next pass.
            let _ = self.device.ticket(vram_device::Queue::Compute).and_then(|t| self.device.wait(t));
        }
        drop(kept);
        f.cancel.cancel();
        f.drop_streamed();
        f.jobs.clear();
        for unit in 0..f.residents.len() {
            if !matches!(f.residents[unit], Some(Slot::Ready(_)) | None) {
                f.residents[unit] = None;
                let _ = f.apply(UnitId(unit), Event::Evict);
            }
        }
        while f.busy > 0 {
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
        plan: Arc<Plan>,
        kept: Vec<Option<Arc<Weights>>>,
        ring: Option<Arena>,
        room: Reservation,
    ) {
        self.counted = kept.iter().map(Option::is_some).collect();
        self.states =
            kept.iter().map(|k| if k.is_some() { State::Preparing } else { State::Onload }).collect();
        self.residents = kept.into_iter().map(|k| k.map(Slot::Ready)).collect();
        self.entries = VecDeque::with_capacity(plan.trace.len() * 2 + 1);
        self.base = 0;
        self.end = 0;
        self.ring = ring;
        self.room = Some(room);
        self.damaged = false;
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
    }

    fn apply(&mut self, unit: UnitId, event: Event) -> Result<(), Error> {
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

    /// Takes a failure out, so that the next attempt reads again. A resident's stays until its place has been
    /// reserved anew, at the next pass.
    fn take_failure(&mut self, unit: UnitId, stray: bool) -> Error {
        let slot = if self.plan.resident[unit.0] {
            let _ = self.apply(unit, Event::Evict);
            self.damaged = true;
            self.residents[unit.0].as_ref().and_then(Slot::failure).map(Slot::Failed)
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
