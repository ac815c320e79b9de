//! What stays on the device, what passes through the ring, and how large the ring is. Pure: no I/O, no clock, no
//! allocation of weights.

use std::collections::HashSet;

use crate::partition::{Partition, Unit, partition};
use crate::spec::{Layer, LayerId};
use crate::{Error, UnitId};

/// The ring is no larger than this unless it is asked for: more read-ahead than it takes to smooth a disk's hiccups
/// only takes room from residents.
const RING_TARGET: u64 = 64 << 20;

/// Units smaller than this cost latency and not bandwidth, so that they are the first to stay.
const SMALL_UNIT: u64 = 64 << 10;

/// The ring holds at least this many units where the budget allows it.
const RING_UNITS: u64 = 3;

/// What a plan is made from.
#[derive(Clone, Debug)]
pub(crate) struct PlanInput<'a> {
    pub(crate) layers: &'a [Layer],
    /// Layers in the order of a pass, repeats included.
    pub(crate) trace: &'a [LayerId],
    /// Whether a pass may use layers that the trace has not: the ring takes these as well.
    pub(crate) guessed: bool,
    /// Bytes that weights, activations and scratch may take together.
    pub(crate) budget: u64,
    /// Bytes of activations and scratch.
    pub(crate) workspace: u64,
    /// Size of the ring in bytes, if it was asked for.
    pub(crate) ring: Option<u64>,
    /// Whether units may stay on the device between passes.
    pub(crate) residents: bool,
    /// Congruence of slots to file offsets.
    pub(crate) sector: u64,
}

/// Which units are resident, and the order in which units are used.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub(crate) partition: Partition,
    /// Units in order of use; a table that is gathered from is not among them.
    pub(crate) trace: Vec<UnitId>,
    pub(crate) resident: Vec<bool>,
    pub(crate) ring_bytes: u64,
    pub(crate) resident_bytes: u64,
    pub(crate) workspace: u64,
}

impl Plan {
    /// Bytes of the ring.
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// Bytes of all residents, slack included.
    pub fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Bytes of activations and scratch.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace
    }

    /// The most bytes that the plan ever holds.
    pub fn peak_bytes(&self) -> u64 {
        self.workspace + self.ring_bytes + self.resident_bytes
    }

    /// The units, in order of registration, and whether each is resident.
    pub fn units(&self) -> impl Iterator<Item = (&Unit, bool)> {
        self.partition.units.iter().zip(self.resident.iter().copied())
    }
}

/// Makes the plan, or says what budget would do.
pub(crate) fn plan(input: &PlanInput<'_>) -> Result<Plan, Error> {
    let used: HashSet<LayerId> = input.trace.iter().copied().collect();
    let available = input.budget.checked_sub(input.workspace);
    let natural = partition(input.layers, &used, u64::MAX, input.sector)?;
    let (tables, streamed) = weigh(&natural, &used);
    let may = |unit: &Unit| !unit.table && (input.guessed || is_used(unit, &used));
    let departing = largest(&natural, |u| may(u) && !is_used(u, &used));
    let keep = |with_tables: bool| -> Plan {
        let resident = natural.units.iter().map(|u| is_used(u, &used) && (with_tables || !u.table)).collect();
        finish(input, natural.clone(), resident, departing)
    };
    if let (Some(available), true) = (available, input.residents) {
        if tables + streamed + departing <= available {
            return Ok(keep(true));
        }
        if streamed + departing <= available {
            return Ok(keep(false));
        }
    }
    let finest = partition(input.layers, &used, 0, input.sector)?;
    let smallest = largest(&finest, may);
    let available = match available {
        Some(available) if smallest <= available => available,
        _ => {
            let weights = if input.residents { smallest.min(streamed + departing) } else { smallest };
            return Err(Error::BudgetTooSmall {
                needed: input.workspace.saturating_add(weights),
                given: input.budget,
                workspace: input.workspace,
                weights,
            });
        }
    };
    let ring = input.ring.unwrap_or(RING_TARGET.min(available / 2)).clamp(smallest, available);
    let cut = partition(input.layers, &used, (ring / RING_UNITS).max(smallest), input.sector)?;
    let ring = ring.max(largest(&cut, may)).min(available);
    let resident = if input.residents {
        spread(&cut, &order(&cut, input.trace), available - ring)
    } else {
        vec![false; cut.units.len()]
    };
    Ok(finish(input, cut, resident, ring))
}

fn is_used(unit: &Unit, used: &HashSet<LayerId>) -> bool {
    unit.table || unit.members.iter().any(|m| used.contains(&m.layer))
}

/// Bytes of the tables and of all other units that a pass uses.
fn weigh(partition: &Partition, used: &HashSet<LayerId>) -> (u64, u64) {
    partition.units.iter().filter(|u| is_used(u, used)).fold((0, 0), |(tables, streamed), u| {
        if u.table { (tables + u.bytes, streamed) } else { (tables, streamed + u.bytes) }
    })
}

fn largest(partition: &Partition, which: impl Fn(&Unit) -> bool) -> u64 {
    partition.units.iter().filter(|u| which(u)).map(|u| u.bytes).max().unwrap_or(0)
}

/// Units in order of use; the tiles of a layer follow each other, and a unit that serves several layers in a row
/// counts once.
fn order(partition: &Partition, trace: &[LayerId]) -> Vec<UnitId> {
    let mut order = Vec::new();
    for layer in trace {
        for tile in &partition.tiles[layer.0] {
            if order.last() != Some(&tile.unit) {
                order.push(tile.unit);
            }
        }
    }
    order
}

/// Chooses residents of at most `room` bytes: small units first, then evenly through the depth.
fn spread(partition: &Partition, order: &[UnitId], mut room: u64) -> Vec<bool> {
    let units = &partition.units;
    let mut resident = vec![false; units.len()];
    let mut seen = HashSet::new();
    let candidates: Vec<UnitId> =
        order.iter().copied().filter(|u| !units[u.0].table && seen.insert(*u)).collect();
    let mut take = |unit: UnitId, room: &mut u64| {
        let bytes = units[unit.0].bytes;
        let fits = !resident[unit.0] && bytes <= *room;
        if fits {
            resident[unit.0] = true;
            *room -= bytes;
        }
        fits
    };
    let (small, large): (Vec<UnitId>, Vec<UnitId>) =
        candidates.into_iter().partition(|u| units[u.0].bytes < SMALL_UNIT);
    for unit in small {
        take(unit, &mut room);
    }
    // In every stretch of the order, residents get the share of bytes that they get of the whole.
    let total: u64 = large.iter().map(|u| units[u.0].bytes).sum();
    let share = room;
    let mut owed: u128 = 0;
    for &unit in &large {
        let bytes = u128::from(units[unit.0].bytes);
        owed += bytes * u128::from(share);
        if owed >= bytes * u128::from(total) && take(unit, &mut room) {
            owed -= bytes * u128::from(total);
        }
    }
    for &unit in &large {
        take(unit, &mut room);
    }
    resident
}

fn finish(input: &PlanInput<'_>, partition: Partition, resident: Vec<bool>, ring_bytes: u64) -> Plan {
    let mut trace = order(&partition, input.trace);
    trace.retain(|u| !partition.units[u.0].table || resident[u.0]);
    let resident_bytes =
        partition.units.iter().zip(&resident).filter(|(_, r)| **r).map(|(u, _)| u.bytes).sum();
    Plan { partition, trace, resident, ring_bytes, resident_bytes, workspace: input.workspace }
}
