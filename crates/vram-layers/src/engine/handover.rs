//! What one plan leaves to the next.

use std::collections::HashMap;
use std::sync::Arc;

use vram_device::Staging;

use super::slot::Weights;
use super::tables::Left;
use crate::observe::event::EvictionReason;
use crate::plan::compose::Planned;
use crate::plan::partition::{Identity, UnitId};

/// Units in host memory, by their identity across plans.
pub(super) type Shelf = HashMap<Identity, Arc<Staging>>;

/// An evicted unit: its name, its bytes, and the reason.
pub(super) type Evicted = (Arc<str>, u64, EvictionReason);

/// What a plan takes over from the previous one, by its own units.
#[derive(Default)]
pub(super) struct Handover {
    pub(super) residents: Vec<Option<Arc<Weights>>>,
    pub(super) host: Vec<Option<Arc<Staging>>>,
    /// Residents that it does not keep; they have been freed.
    pub(super) evicted: Vec<Evicted>,
}

impl Handover {
    /// Frees what the new plan does not keep. Also takes units in host memory from the shelf, and frees those
    /// that the plan cannot use there.
    pub(super) fn to(new: &Planned, left: Left, shelf: &mut Shelf, reason: EvictionReason) -> Handover {
        let residents = put_on_shelf(left, shelf);
        let handover = keep(residents, new, reason);
        let mut on_host =
            |unit| if new.waits_on_host(UnitId(unit)) { shelf.remove(&identity(new, unit)) } else { None };
        let host = (0..new.partition.units.len()).map(&mut on_host).collect();
        shelf.clear();
        Handover { host, ..handover }
    }

    /// Frees all residents, and keeps what is in host memory on the shelf.
    pub(super) fn to_nothing(left: Left, shelf: &mut Shelf, reason: EvictionReason) -> Vec<Evicted> {
        let residents = put_on_shelf(left, shelf);
        keep(residents, &Planned::default(), reason).evicted
    }

    /// Bytes of residents, and of units in host memory.
    pub(super) fn bytes(&self, plan: &Planned) -> (u64, u64) {
        let units = || plan.partition.units.iter();
        let residents = units().zip(&self.residents).filter(|(_, r)| r.is_some()).map(|(u, _)| u.bytes);
        let host = units().zip(&self.host).filter(|(_, h)| h.is_some()).map(|(u, _)| u.bytes);
        (residents.sum(), host.sum())
    }
}

/// The residents that a plan leaves, each with its number in that plan.
struct Residents {
    plan: Arc<Planned>,
    weights: Vec<Option<Arc<Weights>>>,
}

fn put_on_shelf(left: Left, shelf: &mut Shelf) -> Residents {
    let Left { plan, stock } = left;
    for (unit, host) in stock.host.into_iter().enumerate() {
        if let Some(host) = host {
            shelf.insert(identity(&plan, unit), host);
        }
    }
    Residents { plan, weights: stock.residents }
}

fn keep(residents: Residents, new: &Planned, reason: EvictionReason) -> Handover {
    let Residents { plan: old, weights } = residents;
    let mut have: HashMap<Identity, (usize, Arc<Weights>)> = weights
        .into_iter()
        .enumerate()
        .filter_map(|(unit, weights)| Some((identity(&old, unit), (unit, weights?))))
        .collect();
    let mut take = |unit| have.remove(&identity(new, unit)).map(|(_, weights)| weights);
    let residents = (0..new.partition.units.len())
        .map(|unit| if new.is_resident(UnitId(unit)) { take(unit) } else { None })
        .collect();
    let mut gone: Vec<usize> = have.into_values().map(|(unit, _)| unit).collect();
    gone.sort_unstable();
    let gone = gone.into_iter().map(|unit| &old.partition.units[unit]);
    let evicted = gone.map(|unit| (Arc::clone(&unit.name), unit.bytes, reason)).collect();
    Handover { residents, host: Vec::new(), evicted }
}

fn identity(plan: &Planned, unit: usize) -> Identity {
    plan.partition.units[unit].identity()
}
