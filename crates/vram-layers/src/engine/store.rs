//! Where weights are: units that stay on the device, copies in host memory, and the ring.

use std::sync::{Arc, Weak};

use vram_device::{Arena, BudgetExceeded, Region, Reservation, Staging};

use super::context::Context;
use super::guard::{For, reserve};
use super::slot::{Slot, Weights};
use crate::plan::compose::Planned;
use crate::plan::partition::UnitId;

#[derive(Default)]
pub(super) struct Store {
    // Invariants:
    // 1. `residents`, `host` and `reported` have an entry for each unit of the plan in force. Only units that
    //    the plan keeps on the device are residents, and only those that it keeps on the host are on the
    //    host.
    // 2. `room` is reserved for residents that are still to come; `host_room` is the same on the host. A load
    //    takes its bytes from there; after a failed load they are reserved again from the budget.
    // 3. `host_bytes` is the sum over `host`.
    residents: Vec<Option<Slot>>,
    host: Vec<Option<HostCopy>>,
    host_bytes: u64,
    ring: Option<Arena>,
    room: Option<Reservation>,
    host_room: Option<Reservation>,
    /// Residents whose bytes a pass has already reported.
    reported: Vec<bool>,
    /// Bytes that a pass which follows the plan puts on the device: everything that goes through the ring,
    /// and the residents that no pass has reported.
    streamed_bytes: u64,
    unreported_bytes: u64,
}

/// A unit in host memory.
enum HostCopy {
    /// A job is loading it, unless the job is gone.
    Coming(Weak<()>),
    There(Arc<Staging>),
}

/// The status of a unit that the plan keeps in host memory.
pub(super) enum OnHost {
    There(Arc<Staging>),
    Coming,
    Nowhere,
}

/// The initial contents of a store.
#[derive(Default)]
pub(super) struct Stock {
    /// By unit: what is on the device, and what is in host memory.
    pub(super) residents: Vec<Option<Arc<Weights>>>,
    pub(super) host: Vec<Option<Arc<Staging>>>,
    pub(super) ring: Option<Arena>,
    /// For residents still to come, and for units still to come into host memory.
    pub(super) room: Option<Reservation>,
    pub(super) host_room: Option<Reservation>,
}

impl Store {
    pub(super) fn new(plan: &Planned, stock: Stock) -> Store {
        let Stock { residents, host, ring, room, host_room } = stock;
        let bytes = |unit: usize| plan.partition.units[unit].read_bytes();
        let reported: Vec<bool> = residents.iter().map(Option::is_some).collect();
        let streamed = plan.trace.iter().filter(|u| !plan.is_resident(**u));
        let unreported =
            (0..reported.len()).filter(|&u| plan.used[u] && plan.is_resident(UnitId(u)) && !reported[u]);
        Store {
            streamed_bytes: streamed.map(|u| bytes(u.0)).sum(),
            unreported_bytes: unreported.map(bytes).sum(),
            reported,
            residents: residents.into_iter().map(|weights| weights.map(Slot::ready)).collect(),
            host_bytes: host.iter().flatten().map(|host| host.bytes()).sum(),
            host: host.into_iter().map(|host| host.map(HostCopy::There)).collect(),
            ring,
            room,
            host_room,
        }
    }

    pub(super) fn resident(&self, unit: UnitId) -> Option<&Slot> {
        self.residents.get(unit.0)?.as_ref()
    }

    pub(super) fn resident_mut(&mut self, unit: UnitId) -> Option<&mut Slot> {
        self.residents.get_mut(unit.0)?.as_mut()
    }

    pub(super) fn put_resident(&mut self, unit: UnitId, slot: Slot) {
        self.residents[unit.0] = Some(slot);
    }

    pub(super) fn take_resident(&mut self, unit: UnitId) -> Option<Slot> {
        self.residents.get_mut(unit.0)?.take()
    }

    /// Drops residents that are not fully loaded, and returns their ids.
    pub(super) fn drop_unready(&mut self) -> Vec<UnitId> {
        let unready = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| !slot.is_ready());
        let dropped: Vec<UnitId> =
            (0..self.residents.len()).filter(|&u| unready(&self.residents[u])).map(UnitId).collect();
        dropped.iter().for_each(|unit| self.residents[unit.0] = None);
        dropped
    }

    /// Reserves bytes for a resident.
    pub(super) fn room_for_resident(
        &mut self,
        context: &Context,
        bytes: u64,
    ) -> Result<Reservation, BudgetExceeded> {
        take_room(&mut self.room, || reserve(For::Residents, &context.budget, bytes), bytes)
    }

    /// A place in the ring, if there is room.
    pub(super) fn place_in_ring(&self, context: &Context, bytes: u64) -> Option<Region> {
        self.ring.as_ref()?.alloc(bytes, context.slot_alignment())
    }

    pub(super) fn on_host(&self, unit: UnitId) -> OnHost {
        match &self.host[unit.0] {
            Some(HostCopy::There(host)) => OnHost::There(Arc::clone(host)),
            Some(HostCopy::Coming(job)) if job.strong_count() > 0 => OnHost::Coming,
            Some(HostCopy::Coming(_)) | None => OnHost::Nowhere,
        }
    }

    /// Reserves bytes for a unit in host memory. The token says that it is loading, as long as it lives.
    pub(super) fn begin_to_host(
        &mut self,
        context: &Context,
        unit: UnitId,
        bytes: u64,
    ) -> Result<(Reservation, Arc<()>), BudgetExceeded> {
        let reserve = || reserve(For::Host, &context.host_budget, bytes);
        let room = take_room(&mut self.host_room, reserve, bytes)?;
        let coming = Arc::new(());
        self.host[unit.0] = Some(HostCopy::Coming(Arc::downgrade(&coming)));
        Ok((room, coming))
    }

    /// A unit is now in host memory.
    pub(super) fn put_on_host(&mut self, unit: UnitId, host: Staging) {
        self.host_bytes += host.bytes();
        if let Some(HostCopy::There(old)) = self.host[unit.0].replace(HostCopy::There(Arc::new(host))) {
            self.host_bytes -= old.bytes();
        }
    }

    /// Bytes that units hold in host memory, or will.
    pub(super) fn host_bytes(&self) -> u64 {
        self.host_bytes + self.host_room.as_ref().map_or(0, Reservation::bytes)
    }

    /// Bytes that a pass which follows the plan puts on the device.
    pub(super) fn planned_bytes(&self) -> u64 {
        self.streamed_bytes + self.unreported_bytes
    }

    /// Notes that a pass reports the bytes of a resident. Returns whether it is the first to do so.
    pub(super) fn report(&mut self, plan: &Planned, unit: UnitId) -> bool {
        let first = !std::mem::replace(&mut self.reported[unit.0], true);
        if first && plan.used[unit.0] {
            self.unreported_bytes -= plan.partition.units[unit.0].read_bytes();
        }
        first
    }

    /// Fully loaded residents, by unit.
    pub(super) fn take_residents(&mut self) -> Vec<Option<Arc<Weights>>> {
        let residents = std::mem::take(&mut self.residents);
        residents.into_iter().map(|slot| slot.and_then(Slot::into_ready)).collect()
    }

    /// Units in host memory, by unit.
    pub(super) fn take_host(&mut self) -> Vec<Option<Arc<Staging>>> {
        self.host_bytes = 0;
        let there = |copy: Option<HostCopy>| match copy {
            Some(HostCopy::There(host)) => Some(host),
            Some(HostCopy::Coming(_)) | None => None,
        };
        std::mem::take(&mut self.host).into_iter().map(there).collect()
    }

    /// Frees the ring, and what was reserved for units that never came.
    pub(super) fn free_ring(&mut self) {
        self.ring = None;
        self.room = None;
        self.host_room = None;
    }
}

/// Takes `bytes` from what is reserved for units still to come. A failed load took its bytes with it; here
/// they are reserved again from the budget.
fn take_room(
    room: &mut Option<Reservation>,
    reserve: impl Fn() -> Result<Reservation, BudgetExceeded>,
    bytes: u64,
) -> Result<Reservation, BudgetExceeded> {
    let Some(room) = room else { return reserve() };
    room.grow(bytes.saturating_sub(room.bytes()))?;
    room.split(bytes).map_or_else(reserve, Ok)
}
