//! Composes the plan: what stays on the device, what passes through the ring, and how large the ring is, as
//! data that can be printed, saved, checked and simulated. Pure: no I/O, no clock, no allocation of weights.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vram_device::{DeviceError, Memory, Topology};

use crate::error::Error;
use crate::plan::costs::{Costs, nanos};
use crate::plan::partition::UnitId;
use crate::plan::partition::{Partition, Unit, finest, partition};
use crate::plan::schedule::{
    Choice, Fetch, Limit, Machine, Problem, Residency, Room, UnitCost, choose, floor, simulate_listing,
};
use crate::spec::{Layer, LayerId};

/// Largest ring, unless a size is asked for. A ring larger than it takes to smooth a disk's hiccups only
/// takes room from residents.
const RING_TARGET: u64 = 64 << 20;

/// The ring holds at least this many units where the budget allows it.
const RING_UNITS: u64 = 3;

/// Another cut of the model into units must save at least one part in `WORTH` of a pass.
const WORTH: u64 = 50;

/// Up to this many units other cuts are also tried where one is near the bound of what it keeps.
const FEW_UNITS: usize = 64;

/// Passes that are simulated, and how many of them a plan lists the fetches of.
const PASSES: usize = 8;
const LISTED: u64 = 3;

/// What a plan is made from.
#[derive(Clone, Debug)]
pub(crate) struct PlanInput<'a> {
    pub(crate) layers: &'a [Layer],
    /// Layers in the order of a pass, repeats included.
    pub(crate) trace: &'a [LayerId],
    /// Whether a pass may use layers that are not in the trace; if so, the ring must fit these too.
    pub(crate) guessed: bool,
    /// Bytes that weights, activations and scratch may take in total.
    pub(crate) budget: u64,
    /// Bytes of activations and scratch.
    pub(crate) workspace: u64,
    /// Bytes that sessions hold or are about to.
    pub(crate) session: u64,
    /// Size of the ring in bytes, if one was asked for.
    pub(crate) ring: Option<u64>,
    /// Whether units may stay on the device between passes.
    pub(crate) residents: bool,
    /// Slots and file offsets are congruent modulo this.
    pub(crate) sector: u64,
    pub(crate) costs: &'a Costs,
    pub(crate) topology: Topology,
    /// The most bytes that the device allocates at once, for the ring and for a unit that stays.
    pub(crate) max_allocation: u64,
    pub(crate) host: HostRoom,
    pub(crate) smallest: &'a Smallest,
}

/// Remembers the smallest ring. Finding it takes the size of every tile of every layer, and neither budgets
/// nor costs change it.
#[derive(Debug, Default)]
pub(crate) struct Smallest(Mutex<Option<(HashSet<LayerId>, bool, u64)>>);

/// Host memory that a plan may use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HostRoom {
    /// All of it, in bytes.
    pub(crate) budget: u64,
    /// What staging takes of it.
    pub(crate) staging: u64,
    /// What weights may take of it.
    pub(crate) kept: u64,
    /// Bytes that are read and copied at a time.
    pub(crate) piece: u64,
}

/// Which units stay, how large the ring is, and what is fetched when. [`check`](crate::check()) proves it safe.
///
/// Sizes are what is actually held, including alignment and the slack of merged reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The device budget that the plan was made for.
    pub budget_bytes: u64,
    /// The smallest device budget under which the same pass works.
    pub smallest_budget_bytes: u64,
    /// Activations and scratch.
    pub workspace_bytes: u64,
    /// Memory that outlives passes.
    #[serde(default)]
    pub session_bytes: u64,
    /// Size of the ring.
    pub ring_bytes: u64,
    /// Size of all units that stay on the device.
    pub resident_bytes: u64,
    /// The most ever held on the device: workspace, sessions, ring and residents.
    pub peak_bytes: u64,
    /// The host budget that the plan was made for.
    pub host_budget_bytes: u64,
    /// Host memory that weights pass through.
    pub staging_bytes: u64,
    /// Size of all units that wait in host memory.
    pub host_bytes: u64,
    /// The most ever held on the host.
    pub host_peak_bytes: u64,
    /// Time of the first pass, which loads what stays.
    pub first_pass_seconds: f64,
    /// Time of a pass in the steady state.
    pub pass_seconds: f64,
    /// Lower bound of a pass, for any schedule of these units.
    pub bound_seconds: f64,
    /// What sets the bound.
    pub limited_by: Limit,
    /// The units in order of registration.
    pub units: Vec<PlannedUnit>,
    /// Units in order of use, as indices. Tables that rows are gathered from are not among them.
    pub trace: Vec<usize>,
    /// For how many passes `fetches` lists what goes through the ring.
    pub passes: u64,
    /// What goes through the ring in the first passes. Each fetch is at the earliest point at which it can be
    /// issued.
    pub fetches: Vec<Fetch>,
}

/// A unit of a [`Plan`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedUnit {
    /// Name of its first layer, with the rows if it is a tile.
    pub name: String,
    /// Bytes of the slot that holds it.
    pub bytes: u64,
    /// Where it is between uses.
    pub kept: Residency,
    /// Time of its kernels for one use.
    pub compute_seconds: f64,
    /// Time of its transfer to the device over the slowest link that it crosses. For a unit that stays, over
    /// the link that it would cross.
    pub transfer_seconds: f64,
    /// How long kernels wait for it in a pass, as simulated.
    pub stall_seconds: f64,
}

/// A plan, with what the engine needs to follow it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Planned {
    pub(crate) data: std::sync::Arc<Plan>,
    pub(crate) partition: Partition,
    pub(crate) trace: Vec<UnitId>,
    /// Units that are in the trace.
    pub(crate) used: Vec<bool>,
    /// Where each unit waits.
    pub(crate) residency: Vec<Residency>,
}

impl Planned {
    /// Whether a unit stays on the device.
    pub(crate) fn is_resident(&self, unit: UnitId) -> bool {
        self.residency[unit.0] == Residency::Device
    }

    /// Whether a unit waits in host memory.
    pub(crate) fn waits_on_host(&self, unit: UnitId) -> bool {
        self.residency[unit.0] == Residency::Host
    }
}

/// Makes the plan, or says what budget is needed.
pub(crate) fn plan(input: &PlanInput<'_>) -> Result<Planned, Error> {
    let used: HashSet<LayerId> = input.trace.iter().copied().collect();
    let beside = input.workspace.saturating_add(input.session);
    let available = input.budget.checked_sub(beside);
    let natural = partition(input.layers, &used, input.max_allocation, input.sector)?;
    let (tables, streamed) = weigh(&natural, &used);
    let may = |unit: &Unit| !unit.table && (input.guessed || is_used(unit, &used));
    let departing = largest(&natural, |u| may(u) && !is_used(u, &used));
    let smallest = smallest(input, &used)?;
    if smallest > input.max_allocation {
        let reason = format!(
            "the device allocates at most {} bytes at once, but a layer needs this many in one piece",
            input.max_allocation
        );
        return Err(DeviceError::OutOfMemory { bytes: smallest, reason }.into());
    }
    let weights = if input.residents { smallest.min(streamed + departing) } else { smallest };
    let needed = beside.saturating_add(weights);
    if let (Some(available), true) = (available, input.residents)
        && streamed + departing <= available
    {
        let with_tables = tables + streamed + departing <= available;
        let kept = |u: &Unit| {
            let stays = !u.table || (with_tables && u.bytes <= input.max_allocation);
            if is_used(u, &used) && stays { Residency::Device } else { Residency::Source }
        };
        let kept = natural.units.iter().map(kept).collect();
        return Ok(finish(input, needed, natural, kept, departing));
    }
    let Some(available) = available.filter(|available| smallest <= *available) else {
        let PlanInput { budget: given, workspace, session, .. } = *input;
        return Err(Error::BudgetTooSmall { needed, given, workspace, weights, session });
    };
    // What no cut is faster than: those that are finer take more units and more reads.
    let (device, host) = if input.residents { (available, input.host.kept) } else { (0, 0) };
    let lightest = |problem: &Problem| floor(problem, &Room { host, ..problem.room(device) });
    let goal = lightest(&input.problem(&natural));
    drop(natural);
    let most = available.min(input.max_allocation);
    let ring = input.ring.unwrap_or(RING_TARGET.min(available / 2)).clamp(smallest, most);
    let mut best: Option<(Partition, Choice)> = None;
    for units in [RING_UNITS, 2 * RING_UNITS, 2] {
        let cut = partition(input.layers, &used, (ring / units).max(smallest), input.sector)?;
        let problem = input.problem(&cut);
        let bar = best.as_ref().map_or(u64::MAX, |(_, b)| b.pass - b.pass / WORTH);
        if lightest(&problem) >= bar {
            continue;
        }
        // One unit computes, one is on its way and one is ready, so that a slow read is not waited for at once; or at
        // least the two, where they do not take all the room.
        let several = [RING_UNITS, 2].map(|units| units * largest(&cut, may));
        let fits = |bytes: &u64| bytes + bytes / 2 <= available && *bytes <= most;
        let several = several.into_iter().find(fits).unwrap_or(0);
        let is_small = cut.units.len() <= FEW_UNITS;
        let departing = largest(&cut, |u| may(u) && !is_used(u, &used));
        let least = if is_small { departing } else { departing.max(several) };
        let target = ring.max(largest(&cut, may)).min(most);
        let least = if input.ring.is_some() { least.min(target) } else { least };
        let choice = if input.residents {
            let room = Room {
                device: available,
                host: input.host.kept,
                ring: input.ring.map(|_| target),
                least_ring: least,
                wanted_ring: several,
                target_ring: target,
            };
            choose(&problem, &room)
        } else {
            let kept = vec![Residency::Source; cut.units.len()];
            let timeline = simulate_listing(&problem, &kept, target, PASSES, 0);
            let pass = timeline.map_or(u64::MAX, |t| t.steady());
            Choice { kept, ring_bytes: target, pass }
        };
        let bound = problem.bound(&choice.kept).nanos;
        if choice.pass < bar || best.is_none() {
            let aim = if is_small { goal } else { bound };
            let near = choice.pass <= aim + aim / WORTH;
            best = Some((cut, choice));
            if near {
                break;
            }
        }
    }
    let Some((cut, choice)) = best else {
        return Err(Error::Model("no cut of the model into units was tried".into()));
    };
    Ok(finish(input, needed, cut, choice.kept, choice.ring_bytes))
}

/// The smallest budget that works, in bytes.
pub(crate) fn minimum(input: &PlanInput<'_>) -> Result<u64, Error> {
    match plan(&PlanInput { budget: 0, ..input.clone() }) {
        Ok(planned) => Ok(planned.data.smallest_budget_bytes),
        Err(Error::BudgetTooSmall { needed, .. }) => Ok(needed),
        Err(e) => Err(e),
    }
}

/// Nanoseconds that a pass of the plan takes with other costs than those it was made with.
pub(crate) fn predict(input: &PlanInput<'_>, planned: &Planned) -> u64 {
    let kept: Vec<Residency> = planned.data.units.iter().map(|u| u.kept).collect();
    let problem = input.problem(&planned.partition);
    let timeline = simulate_listing(&problem, &kept, planned.data.ring_bytes, PASSES, 0);
    timeline.map_or(u64::MAX, |t| t.steady())
}

/// Seconds of a pass and its bound, with other costs than those the plan was made with.
pub(crate) fn forecast(input: &PlanInput<'_>, planned: &Planned) -> (f64, f64) {
    let kept: Vec<Residency> = planned.data.units.iter().map(|u| u.kept).collect();
    let bound = input.problem(&planned.partition).bound(&kept).nanos;
    (predict(input, planned) as f64 / 1e9, bound as f64 / 1e9)
}

impl PlanInput<'_> {
    /// Whether weights are read straight into the memory that kernels read.
    fn shares_memory(&self) -> bool {
        self.topology.memory == Memory::Shared
    }

    fn machine(&self) -> Machine {
        Machine {
            shares_memory: self.shares_memory(),
            one_queue: !self.shares_memory() && !self.topology.separate_copy_queue,
            staging: self.host.staging,
            align: self.sector.max(64),
            chunk: if self.shares_memory() { u64::MAX } else { self.host.piece },
        }
    }

    fn problem(&self, partition: &Partition) -> Problem {
        let units = partition.units.iter().map(|u| self.cost(u)).collect();
        let trace = order(partition, self.trace).into_iter().filter(|u| !partition.units[u.0].table);
        Problem { units, trace: trace.map(|u| u.0).collect(), machine: self.machine() }
    }

    fn cost(&self, unit: &Unit) -> UnitCost {
        let read = unit.read_bytes();
        let pieces = (unit.packing.extents.len() + unit.packing.computed.len()) as u64;
        let compute: f64 = unit
            .members
            .iter()
            .map(|m| {
                let whole = self.costs.compute_seconds.get(m.layer.0).copied().unwrap_or(0.0);
                let rows = self.layers[m.layer.0].rows().max(1);
                m.rows.as_ref().map_or(whole, |r| whole * r.len() as f64 / rows as f64)
            })
            .sum();
        UnitCost {
            bytes: unit.bytes,
            compute: nanos(compute + self.costs.unit_seconds),
            disk: self.costs.disk.nanos(read, pieces),
            bus: if self.shares_memory() { 0 } else { self.costs.bus.nanos(read, pieces) },
        }
    }
}

fn is_used(unit: &Unit, used: &HashSet<LayerId>) -> bool {
    unit.table || unit.members.iter().any(|m| used.contains(&m.layer))
}

/// Bytes of the tables, and of all other units that a pass uses.
fn weigh(partition: &Partition, used: &HashSet<LayerId>) -> (u64, u64) {
    partition.units.iter().filter(|u| is_used(u, used)).fold((0, 0), |(tables, streamed), u| {
        if u.table { (tables + u.bytes, streamed) } else { (tables, streamed + u.bytes) }
    })
}

/// Bytes of the smallest ring through which everything passes.
fn smallest(input: &PlanInput<'_>, used: &HashSet<LayerId>) -> Result<u64, Error> {
    let mut known = input.smallest.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, guessed, bytes)) = &*known
        && of == used
        && *guessed == input.guessed
    {
        return Ok(*bytes);
    }
    let may = |layer| input.guessed || used.contains(&layer);
    let bytes = finest(input.layers, used, input.sector, may)?;
    *known = Some((used.clone(), input.guessed, bytes));
    Ok(bytes)
}

fn largest(partition: &Partition, which: impl Fn(&Unit) -> bool) -> u64 {
    partition.units.iter().filter(|u| which(u)).map(|u| u.bytes).max().unwrap_or(0)
}

/// Units in order of use. The tiles of a layer follow each other, and a unit that serves several layers in a
/// row counts once.
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

fn finish(
    input: &PlanInput<'_>,
    needed: u64,
    partition: Partition,
    kept: Vec<Residency>,
    ring_bytes: u64,
) -> Planned {
    let mut trace = order(&partition, input.trace);
    trace.retain(|u| !partition.units[u.0].table || kept[u.0] == Residency::Device);
    let problem = input.problem(&partition);
    let listed = LISTED as usize;
    let timeline = simulate_listing(&problem, &kept, ring_bytes, PASSES, listed).unwrap_or_default();
    let bound = problem.bound(&kept);
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let sum = |which: Residency| -> u64 {
        partition.units.iter().zip(&kept).filter(|(_, k)| **k == which).map(|(u, _)| u.bytes).sum()
    };
    let (resident_bytes, host_bytes) = (sum(Residency::Device), sum(Residency::Host));
    let host_left = input.host.kept.saturating_sub(host_bytes);
    let later = (PASSES - 1) as f64;
    let units = partition.units.iter().enumerate().map(|(i, unit)| {
        let cost = problem.units[i];
        let waits_on_host = match kept[i] {
            Residency::Host => true,
            // Where it would wait if it did not stay.
            Residency::Device => unit.bytes <= host_left,
            Residency::Source => false,
        };
        let link = if waits_on_host { cost.bus } else { cost.disk.max(cost.bus) };
        PlannedUnit {
            name: unit.name.to_string(),
            bytes: unit.bytes,
            kept: kept[i],
            compute_seconds: seconds(cost.compute),
            transfer_seconds: seconds(link),
            stall_seconds: timeline.stalls.get(i).map_or(0.0, |s| seconds(*s) / later),
        }
    });
    let data = Plan {
        budget_bytes: input.budget,
        smallest_budget_bytes: needed,
        workspace_bytes: input.workspace,
        session_bytes: input.session,
        ring_bytes,
        resident_bytes,
        peak_bytes: input.workspace + input.session + ring_bytes + resident_bytes,
        host_budget_bytes: input.host.budget,
        staging_bytes: input.host.staging,
        host_bytes,
        host_peak_bytes: input.host.staging + host_bytes,
        first_pass_seconds: seconds(timeline.first()),
        pass_seconds: seconds(timeline.steady().max(bound.nanos)),
        bound_seconds: seconds(bound.nanos),
        limited_by: bound.limit,
        units: units.collect(),
        trace: problem.trace.clone(),
        passes: LISTED,
        fetches: timeline.fetches,
    };
    let mut used = vec![false; partition.units.len()];
    trace.iter().for_each(|unit| used[unit.0] = true);
    Planned { data: data.into(), partition, trace, used, residency: kept }
}
