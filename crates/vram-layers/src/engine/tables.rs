//! All mutable state that the readers and the computing thread share, under one lock.

use std::sync::Arc;

use vram_device::Ticket;
use vram_types::Priority;

use super::context::Context;
use super::guard::{is_for, is_of_plan, takes_its_reads_along, waits_for_memory};
use super::job::{Job, Place};
use super::jobs::Jobs;
use super::leases::{Ended, Leases, give_back};
use super::rows::Rows;
use super::slot::{Fetched, Seen, Slot, Weights};
use super::states::States;
use super::store::{OnHost, Stock, Store};
use super::window::{Wanted, Window};
use crate::error::Error;
use crate::observe::event::StallCause;
use crate::plan::compose::Planned;
use crate::plan::partition::UnitId;
use crate::state::{Event, State};

/// What is planned, where weights are, what is loading and what is under lease.
#[derive(Default)]
pub(crate) struct Tables {
    // Invariant: all of them are about units of `plan`.
    plan: Arc<Planned>,
    states: States,
    store: Store,
    window: Window,
    leases: Leases,
    jobs: Jobs,
}

/// How the computing thread gets a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// It stays on the device.
    resident: bool,
    /// It is next in the trace.
    expected: bool,
    /// It is not taken from the window: it is not in the trace, or it is a resident out of turn.
    stray: bool,
}

/// What the computing thread finds when it looks for a unit.
pub(super) enum Look {
    Ready(Arc<Weights>),
    Failed(Error),
    Wait(StallCause),
}

/// The result of trying to issue something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Issued {
    /// Something new was issued.
    Yes,
    /// The ring has no room.
    NoRoom,
    /// Nothing more is wanted now.
    Enough,
}

/// What a replaced plan leaves.
pub(super) struct Left {
    pub(super) plan: Arc<Planned>,
    pub(super) stock: Stock,
}

/// Calls from the computing thread.
impl Tables {
    /// The weights of a unit that is under lease, or whose last lease has just ended.
    pub(super) fn lease_again(&mut self, unit: UnitId) -> Result<Option<Arc<Weights>>, Error> {
        if let Some(weights) = self.leases.take_sticky(unit) {
            self.states.apply(unit, Event::Acquire)?;
            self.leases.hold(unit, &weights);
            return Ok(Some(weights));
        }
        let Some((weights, after_another)) = self.leases.hold_again(unit) else { return Ok(None) };
        // Used again after another unit: it is twice in the trace, and so in the window.
        if after_another && self.window.expects(&self.plan, unit) {
            self.skip(1);
        }
        Ok(Some(weights))
    }

    /// Decides how to get a unit. If the pass has left the trace, continues where the unit comes next.
    pub(super) fn find_way(&mut self, unit: UnitId) -> Way {
        // A resident does not move: using it out of turn is no departure.
        let resident = self.plan.is_resident(unit);
        let expected = self.window.expects(&self.plan, unit);
        let stray = !expected && (resident || !self.depart(unit));
        if stray && !resident {
            self.window.begin_stray();
        }
        Way { resident, expected, stray }
    }

    /// Looks for a unit. If it has not been issued, asks the readers to, because issuing allocates.
    pub(super) fn look(&mut self, context: &Context, unit: UnitId, way: Way) -> Look {
        let Way { resident, expected, stray } = way;
        let departed = stray || !expected;
        match self.slot_mut(unit, stray).map(|slot| slot.look()) {
            Some(Seen::Ready(weights)) => {
                let weights = Arc::clone(weights);
                Look::Ready(weights)
            }
            Some(Seen::Failed) => {
                self.window.end_wait();
                Look::Failed(self.take_failure(unit, way))
            }
            Some(Seen::Loading { .. }) if resident => Look::Wait(StallCause::FirstLoad),
            Some(Seen::Loading { .. }) if departed => Look::Wait(StallCause::Departure),
            Some(Seen::Loading { from_disk: false }) => Look::Wait(StallCause::Bus),
            Some(Seen::Loading { from_disk: true }) => Look::Wait(StallCause::Disk),
            None => {
                if let Some(e) = self.window.take_refusal() {
                    // Readers continue with the trace.
                    self.window.end_stray();
                    return Look::Failed(e);
                }
                self.window.want(Wanted { unit, stray });
                context.work.notify_all();
                Look::Wait(match (resident, departed) {
                    (true, _) => StallCause::FirstLoad,
                    (false, true) => StallCause::Departure,
                    (false, false) => StallCause::Disk,
                })
            }
        }
    }

    /// Ends the wait for a unit. Returns whether the ring had no room for it for a while.
    pub(super) fn end_wait(&mut self) -> bool {
        self.window.end_wait()
    }

    /// Takes a unit under its first lease. Returns whether its bytes are still to be reported: a resident's
    /// are reported once, by the pass that uses it first.
    pub(super) fn lease(
        &mut self,
        context: &Context,
        unit: UnitId,
        way: Way,
        weights: &Arc<Weights>,
    ) -> Result<bool, Error> {
        self.states.apply(unit, Event::Acquire)?;
        self.leases.hold(unit, weights);
        let first = !way.resident || self.store.report(&self.plan, unit);
        if way.stray {
            self.window.end_stray();
            context.work.notify_all();
        } else {
            self.window.advance();
        }
        Ok(first)
    }

    /// A lease has ended; everything that reads its weights has been issued.
    pub(super) fn release(
        &mut self,
        context: &Context,
        plan: &Arc<Planned>,
        unit: UnitId,
        weights: Arc<Weights>,
        done: Ticket,
    ) {
        if !is_of_plan(plan, &self.plan) {
            // The lease outlived its plan, and the unit's number now means another unit.
            return give_back(weights, done);
        }
        drop(weights);
        let Some(Ended { weights, done }) = self.leases.end(unit, Some(done)) else { return };
        let event = self.release_event(unit);
        if let (Ok(()), Some(done)) = (self.states.apply(unit, event), done)
            && event == Event::ReleaseStreamed
        {
            self.let_go(context);
            self.leases.stick(unit, weights, done);
        }
    }

    /// A lease was dropped, and kernels that read its weights may still be running.
    pub(super) fn quarantine(&mut self, plan: &Arc<Planned>, unit: UnitId, weights: Arc<Weights>) {
        if is_of_plan(plan, &self.plan) && self.leases.end(unit, None).is_some() {
            let _ = self.states.apply(unit, self.release_event(unit));
        }
        self.leases.quarantine(weights);
    }

    /// Gives back what the last finished lease left.
    pub(super) fn let_go(&mut self, context: &Context) {
        if self.leases.let_go() {
            context.work.notify_all();
        }
    }

    /// Takes the weights of dropped leases.
    pub(super) fn end_quarantine(&mut self) -> Vec<Arc<Weights>> {
        self.leases.end_quarantine()
    }

    /// The next position begins a pass.
    pub(super) fn end_pass(&mut self) {
        self.leases.end_pass();
        let left = self.window.left_of_pass(&self.plan);
        self.skip(left);
        self.window.end_stray();
    }

    /// Queues rows for a reader, ahead of everything else.
    pub(super) fn queue_rows(&mut self, name: &Arc<str>, rows: Rows) {
        self.jobs.rows(name, rows);
    }

    /// Lets the readers advance by this many positions.
    pub(super) fn open(&mut self, positions: u64) {
        self.window.open(positions);
    }

    /// The pass has left the trace. `false` if the unit is nowhere in the trace.
    fn depart(&mut self, unit: UnitId) -> bool {
        let ahead = self.window.ahead(&self.plan, unit);
        tracing::debug!(unit = unit.0, ?ahead, "the pass departs from the trace");
        match ahead {
            Some(ahead) => {
                self.skip(ahead);
                self.window.open_next();
            }
            None => self.drop_streamed(),
        }
        ahead.is_some()
    }

    fn release_event(&self, unit: UnitId) -> Event {
        if self.plan.is_resident(unit) { Event::ReleaseResident } else { Event::ReleaseStreamed }
    }

    fn slot_mut(&mut self, unit: UnitId, stray: bool) -> Option<&mut Slot> {
        if self.plan.is_resident(unit) {
            self.store.resident_mut(unit)
        } else if stray {
            self.window.stray_mut()
        } else {
            self.window.front_mut()
        }
    }

    /// Takes a failure out, so that the next attempt reads again.
    fn take_failure(&mut self, unit: UnitId, way: Way) -> Error {
        let slot = if way.resident {
            let _ = self.states.apply(unit, Event::Evict);
            self.store.take_resident(unit)
        } else if way.stray {
            self.window.end_stray()
        } else {
            self.window.advance()
        };
        slot.and_then(Slot::into_failure).unwrap_or_else(|| Error::Model("a failure was lost".into()))
    }

    /// Advances by `count` positions and drops what was fetched for them.
    fn skip(&mut self, count: u64) {
        let loads = self.window.skip(count);
        self.jobs.forget(&loads);
    }

    fn drop_streamed(&mut self) {
        let loads = self.window.clear();
        self.jobs.forget(&loads);
    }
}

/// Calls from the readers.
impl Tables {
    pub(super) fn is_stopped(&self) -> bool {
        self.jobs.is_stopped()
    }

    /// The next job and its priority. The reader that takes it is busy until it [completes](Tables::complete)
    /// it.
    pub(super) fn take_job(&mut self) -> Option<(Job, Priority)> {
        let job = self.jobs.take()?;
        let urgent = match job.place {
            Place::Position(position) => self.window.is_due(position),
            Place::Resident(unit) => self.window.expects(&self.plan, unit),
            Place::Stray => true,
        };
        Some((job, if urgent { Priority::Urgent } else { Priority::ReadAhead }))
    }

    /// Whether there is more than one job to take.
    pub(super) fn has_jobs_for_others(&self) -> bool {
        self.jobs.waiting() > 1
    }

    /// Books the result of a job.
    pub(super) fn complete(&mut self, place: Place, load: u64, mut result: Result<Fetched, Error>) {
        self.jobs.booked();
        if let Ok(Fetched { to_host, .. }) = &mut result
            && let Some((unit, host)) = to_host.take()
        {
            self.store.put_on_host(unit, host);
        }
        let slot = match place {
            Place::Resident(unit) => self.store.resident_mut(unit),
            Place::Position(position) => self.window.at_mut(position),
            Place::Stray => self.window.stray_mut(),
        };
        match slot {
            Some(slot) if is_for(slot, load) => {
                if takes_its_reads_along(result.is_err()) {
                    self.jobs.forget(&[load]);
                }
                slot.advance(result);
            }
            _ => {
                if let Ok(fetched) = result {
                    fetched.discard();
                }
            }
        }
    }

    /// Issues what the computing thread waits for, if it has not been issued. Returns whether there was
    /// anything to do.
    pub(super) fn issue_wanted(&mut self, context: &Context) -> bool {
        let Some(wanted) = self.window.wanted() else { return false };
        let mut refused = None;
        if self.slot_mut(wanted.unit, wanted.stray).is_none() {
            match self.issue_for(context, wanted) {
                Ok(true) => {}
                Ok(false) => {
                    self.window.found_no_room();
                    return false;
                }
                Err(e) => refused = Some(e),
            }
            context.ready.notify_all();
        }
        self.window.answer(refused);
        true
    }

    /// Issues the next position, if there is one and it fits.
    pub(super) fn issue_next(&mut self, context: &Context) -> Issued {
        let Some((position, unit)) = self.window.next(&self.plan) else { return Issued::Enough };
        if self.plan.is_resident(unit) {
            if self.store.resident(unit).is_none() {
                let Some(slot) = self.load_resident(context, unit) else { return Issued::NoRoom };
                self.store.put_resident(unit, slot);
            }
            self.window.push(None);
            return Issued::Yes;
        }
        match self.load_streamed(context, unit, Place::Position(position)) {
            Some(slot) => {
                self.window.push(Some(slot));
                Issued::Yes
            }
            None => Issued::NoRoom,
        }
    }

    /// Issues a unit. Returns whether there was room, or may be once a reader is done.
    fn issue_for(&mut self, context: &Context, wanted: Wanted) -> Result<bool, Error> {
        let Wanted { unit, stray } = wanted;
        let found_room = if self.plan.is_resident(unit) {
            let slot = self.load_resident(context, unit);
            slot.map(|slot| self.store.put_resident(unit, slot)).is_some()
        } else if stray {
            let slot = self.load_streamed(context, unit, Place::Stray);
            slot.map(|slot| self.window.put_stray(slot)).is_some()
        } else {
            self.window.open_next();
            match self.issue_next(context) {
                Issued::Yes => true,
                Issued::NoRoom => false,
                Issued::Enough => {
                    return Err(Error::Model("the pass waits for a unit that is not being fetched".into()));
                }
            }
        };
        if found_room {
            context.work.notify_all();
        } else if self.jobs.busy() == 0 && self.jobs.waiting() == 0 {
            // Only held leases can be in the way, and the waiting thread holds them.
            let of = &self.plan.partition.units[unit.0];
            return Err(Error::Unsupported(format!(
                "unit {:?} ({} bytes) does not fit a ring of {} bytes beside the leases that are still held; finish them first",
                of.name, of.bytes, self.plan.data.ring_bytes
            )));
        }
        Ok(found_room)
    }

    /// `None` if there is no room until a reader is done.
    fn load_resident(&mut self, context: &Context, id: UnitId) -> Option<Slot> {
        let unit = &self.plan.partition.units[id.0];
        let room = match self.store.room_for_resident(context, unit.bytes) {
            Ok(room) => room,
            Err(_) if waits_for_memory(self.jobs.busy()) => return None,
            Err(e) => return Some(Slot::failed(vram_device::DeviceError::from(e))),
        };
        if let Err(e) = self.states.apply(id, Event::Prepare) {
            return Some(Slot::failed(e));
        }
        Some(match context.device.allocate(room) {
            Ok(buffer) => self.jobs.fill(context, unit, buffer.into_region(), Place::Resident(id)),
            Err(e) => Slot::failed(e),
        })
    }

    /// `None` if the ring has no room.
    fn load_streamed(&mut self, context: &Context, id: UnitId, place: Place) -> Option<Slot> {
        let unit = &self.plan.partition.units[id.0];
        let (store, jobs) = (&mut self.store, &mut self.jobs);
        let region = store.place_in_ring(context, unit.bytes)?;
        if context.mapped && unit.packing.computed.is_empty() {
            return Some(jobs.map(context, unit, region, place));
        }
        if !self.plan.waits_on_host(id) || unit.bytes == 0 {
            return Some(jobs.fill(context, unit, region, place));
        }
        Some(match store.on_host(id) {
            OnHost::There(host) => jobs.copy_from_host(context, unit, region, place, host),
            // Used again before it has arrived.
            OnHost::Coming => jobs.fill(context, unit, region, place),
            OnHost::Nowhere => match store.begin_to_host(context, id, unit.bytes) {
                Ok(room) => jobs.read_to_host(context, (id, unit), region, place, room),
                Err(e) => Slot::failed(vram_device::DeviceError::from(e)),
            },
        })
    }
}

/// Calls from the admission, between passes.
impl Tables {
    pub(super) fn plan(&self) -> &Arc<Planned> {
        &self.plan
    }

    pub(super) fn states(&self) -> &[State] {
        self.states.all()
    }

    /// Bytes that a pass which follows the plan puts on the device.
    pub(super) fn planned_bytes(&self) -> u64 {
        self.store.planned_bytes()
    }

    /// Bytes that units hold in host memory, or will.
    pub(super) fn host_bytes(&self) -> u64 {
        self.store.host_bytes()
    }

    /// Ends all reads and drops streamed units. Fully loaded residents stay.
    pub(super) fn stop_reading(&mut self) {
        self.window.close();
        self.jobs.cancel();
        self.drop_streamed();
        for unit in self.store.drop_unready() {
            let _ = self.states.apply(unit, Event::Evict);
        }
    }

    /// Readers that have not yet booked their job.
    pub(super) fn busy_readers(&self) -> usize {
        self.jobs.busy()
    }

    /// Jobs queued from now on are not cancelled.
    pub(super) fn renew_jobs(&mut self) {
        self.jobs.renew();
    }

    /// Tells the readers to end.
    pub(super) fn stop(&mut self) {
        self.jobs.stop();
    }

    /// Whether a resident is on the device.
    pub(super) fn is_there(&self, unit: UnitId) -> bool {
        self.store.resident(unit).is_some_and(Slot::is_ready)
    }

    /// Frees a resident. Returns whether there was one.
    pub(super) fn evict(&mut self, unit: UnitId) -> bool {
        let there = self.store.take_resident(unit).is_some();
        there && self.states.apply(unit, Event::Evict).is_ok()
    }

    /// Frees the ring, and what was reserved for units that never came.
    pub(super) fn free_ring(&mut self) {
        self.store.free_ring();
    }

    /// Frees the ring, and takes out what the plan has on the device and in host memory.
    pub(super) fn take_stock(&mut self) -> Left {
        self.free_ring();
        let (residents, host) = (self.store.take_residents(), self.store.take_host());
        Left { plan: Arc::clone(&self.plan), stock: Stock { residents, host, ..Stock::default() } }
    }

    /// Puts another plan in force. Only call it after the reads for the previous one have ended.
    pub(super) fn install(&mut self, plan: Arc<Planned>, stock: Stock) {
        self.leases.forget();
        self.states = States::new(stock.residents.iter().map(Option::is_some));
        self.window = Window::new(&plan);
        self.store = Store::new(&plan, stock);
        self.plan = plan;
    }
}
