//! Queues what brings a unit to the device, and books what the readers brought.

use std::sync::{Arc, Weak};

use vram_device::{Budget, BudgetExceeded, Lifetime, Region, Reservation, Staging};
use vram_types::FileRange;

use super::fetch::{Fetch, Shared};
use super::job::{Fetched, FromHost, Job, Keep, Place, Read, Work, fill_jobs, pieces};
use super::slot::{Memory, Slot};
use crate::guard::{Guard, charged, guard};
use crate::partition::Unit;
use crate::plan::Planned;
use crate::state::Event;
use crate::{Error, UnitId};

/// A unit in host memory.
#[derive(Clone)]
pub(crate) enum HostCopy {
    /// A job is bringing it, unless the job is gone.
    Coming(Weak<()>),
    There(Arc<Staging>),
}

impl HostCopy {
    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            HostCopy::Coming(_) => 0,
            HostCopy::There(host) => host.bytes(),
        }
    }
}

/// Takes `bytes` out of what is reserved for units to come. A load that failed took its bytes along, and has them back
/// from the budget here.
fn take_room(
    room: &mut Option<Reservation>,
    budget: &Budget,
    bytes: u64,
) -> Result<Reservation, BudgetExceeded> {
    let Some(room) = room else { return budget.reserve(Lifetime::Weights, bytes) };
    room.grow(bytes.saturating_sub(room.bytes()))?;
    match room.split(bytes) {
        Some(taken) => Ok(taken),
        None => budget.reserve(Lifetime::Weights, bytes),
    }
}

impl Shared {
    /// `None` if there is no room until a reader is done: one may still hold the memory of a load that failed.
    pub(super) fn load_resident(&self, f: &mut Fetch, plan: &Planned, id: UnitId) -> Option<Slot> {
        let unit = &plan.partition.units[id.0];
        let room = match take_room(&mut f.room, &charged(Guard::ResidentBytes, &self.budget), unit.bytes) {
            Ok(room) => room,
            Err(_) if f.busy > 0 && guard(Guard::FailedLoad) => return None,
            Err(e) => return Some(Slot::Failed(vram_device::DeviceError::from(e).into())),
        };
        if let Err(e) = f.apply(id, Event::Prepare) {
            return Some(Slot::Failed(e));
        }
        Some(match self.device.allocate(room) {
            Ok(buffer) => self.fill(f, unit, buffer.into_region(), Place::Resident(id)),
            Err(e) => Slot::Failed(e.into()),
        })
    }

    pub(super) fn load_streamed(
        &self,
        f: &mut Fetch,
        plan: &Planned,
        id: UnitId,
        place: Place,
    ) -> Option<Slot> {
        let unit = &plan.partition.units[id.0];
        let align = self.source.alignment().max(64);
        let region = f.ring.as_ref()?.alloc(unit.bytes, align)?;
        if self.mapped && unit.packing.computed.is_empty() {
            return Some(self.map(f, unit, region, place));
        }
        if plan.cached[id.0] && unit.bytes > 0 {
            return Some(self.copy_kept(f, unit, id, region, place));
        }
        Some(self.fill(f, unit, region, place))
    }

    /// Queues the reads that fill a region.
    fn fill(&self, f: &mut Fetch, unit: &Unit, region: Region, place: Place) -> Slot {
        let load = f.new_load();
        match fill_jobs(unit, &self.layers, region, self.piece, (place, load), &f.cancel) {
            Ok((jobs, memory)) => {
                let bytes = jobs.iter().map(Job::bytes).sum();
                let left = jobs.len();
                f.jobs.extend(jobs);
                Slot::loading(load, left, memory, (bytes, bytes))
            }
            Err(e) => Slot::Failed(e),
        }
    }

    /// Queues the copy from host memory, and before the first of them the reads into it.
    fn copy_kept(&self, f: &mut Fetch, unit: &Unit, id: UnitId, region: Region, place: Place) -> Slot {
        let reads: Vec<Read> =
            pieces(unit, &self.layers, self.piece).into_iter().map(|(read, _)| read).collect();
        let bytes = reads.iter().map(|r| r.wanted.end - r.wanted.start).sum();
        let there = match &f.host[id.0] {
            Some(HostCopy::There(host)) => Some(Arc::clone(host)),
            Some(HostCopy::Coming(job)) if job.strong_count() > 0 => {
                // Used again before it is there.
                return self.fill(f, unit, region, place);
            }
            Some(HostCopy::Coming(_)) | None => None,
        };
        let part = match region.into_parts(&[]) {
            Ok(mut parts) => parts.pop(),
            Err(e) => return Slot::Failed(e.into()),
        };
        let Some(part) = part else { return Slot::Failed(Error::Model("a region without parts".into())) };
        let (work, disk_bytes) = match there {
            Some(host) => (Work::FromHost(FromHost { part, reads, host }), 0),
            None => {
                let room = match take_room(
                    &mut f.host_room,
                    &charged(Guard::HostBytes, &self.host_budget),
                    unit.bytes,
                ) {
                    Ok(room) => room,
                    Err(e) => return Slot::Failed(vram_device::DeviceError::from(e).into()),
                };
                let coming = Arc::new(());
                f.host[id.0] = Some(HostCopy::Coming(Arc::downgrade(&coming)));
                (Work::Keep(Keep { unit: id, part, reads, room, _coming: coming }), bytes)
            }
        };
        let load = f.new_load();
        f.jobs.push_back(Job { place, load, name: Arc::clone(&unit.name), work, cancel: f.cancel.clone() });
        Slot::loading(load, 1, None, (disk_bytes, bytes))
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
            let (name, work) = (Arc::clone(&unit.name), Work::Prefault(Arc::clone(window)));
            f.jobs.push_back(Job { place, load, name, work, cancel: f.cancel.clone() });
        }
        let bytes = unit.packing.extents.iter().map(|e| e.bytes).sum();
        let left = windows.len();
        Slot::loading(load, left, Some(Memory::Mapped { windows, _permit: permit }), (bytes, bytes))
    }

    /// Books what a reader brought.
    pub(crate) fn complete(
        &self,
        f: &mut Fetch,
        place: Place,
        load: u64,
        mut result: Result<Fetched, Error>,
    ) {
        if let Ok(Fetched { kept: kept @ Some(_), .. }) = &mut result
            && let Some((unit, host)) = kept.take()
        {
            f.host[unit.0] = Some(HostCopy::There(Arc::new(host)));
        }
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
            Some(slot) if slot.is_load(load) || !guard(Guard::Load) => {
                if result.is_err() && guard(Guard::FailedLoad) {
                    // What is left of the load would only keep its memory from the next attempt.
                    f.jobs.retain(|job| job.load != load);
                }
                slot.advance(result);
            }
            // Nobody waits for it any more. A copy under way still writes the region, so it goes with its ticket.
            _ => {
                if let Ok(Fetched { region: Some(region), uploaded: Some(ticket), .. }) = result {
                    region.retire(ticket);
                }
            }
        }
    }
}
