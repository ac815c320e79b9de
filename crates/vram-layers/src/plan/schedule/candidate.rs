//! Evaluates a choice of what stays.

use super::problem::{Problem, Residency, Room};
use super::simulate::steady;
use super::spread::Spread;

/// Passes simulated for each candidate; the first half fills the ring. Fewer if a pass has so many uses that
/// filling the ring takes a small part of one.
const PASSES: usize = 8;
/// What a ring of another size than the wanted one has to gain: one part in so many.
pub(super) const WORTH: u64 = 50;
const FEWEST_PASSES: usize = 4;
const ENOUGH_USES: usize = 4096;

/// What stays where, and how fast that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where each unit is kept.
    pub kept: Vec<Residency>,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Nanoseconds of a pass in the steady state.
    pub pass: u64,
}

impl Choice {
    /// The pass, and what a ring that is smaller than the wanted one has to pay.
    pub(super) fn score(&self, problem: &Problem, room: &Room) -> u64 {
        let of_use = || 2 * streamed(problem, &self.kept).sum::<u64>();
        let small = self.ring_bytes < room.wanted_ring && self.ring_bytes < of_use();
        self.pass.saturating_add(if small { self.pass / WORTH } else { 0 })
    }
}

/// Passes that candidates of a problem are simulated for.
pub(super) fn passes(problem: &Problem) -> usize {
    (ENOUGH_USES / problem.trace.len().max(1)).clamp(FEWEST_PASSES, PASSES)
}

/// Keeps these units on the device and as many of the others as fit on the host, and simulates that. Returns
/// the choice and the steps that its simulation took; `None` if it does not fit.
pub(super) fn evaluate(problem: &Problem, room: &Room, on_device: &[Residency]) -> Option<(Choice, u64)> {
    let mut kept: Vec<Residency> = on_device
        .iter()
        .map(|k| if *k == Residency::Device { Residency::Device } else { Residency::Source })
        .collect();
    let resident: u64 = bytes(problem, &kept, |k| k == Residency::Device);
    let beside = room.device.checked_sub(resident)?;
    let largest = streamed(problem, &kept).max().unwrap_or(0).max(room.least_ring);
    if largest > beside {
        return None;
    }
    // What this pass and the next one stream; no fetch is further ahead.
    let all = (2 * streamed(problem, &kept).sum::<u64>()).max(room.least_ring);
    if resident > 0 && room.ring.is_some_and(|ring| ring.min(all) > beside) {
        return None;
    }
    let ring_bytes = room.ring.unwrap_or(room.target_ring).min(all).max(largest).min(beside);
    if room.host > 0 && !problem.machine.shares_memory {
        Spread::Bytes { owed_first: 0 }.choose(problem, room.host, &mut kept, Residency::Host);
    }
    let (steady, steps) = steady(problem, &kept, ring_bytes, passes(problem))?;
    // If the simulated window ends within the read-ahead, it may seem to beat the bound.
    let pass = steady.max(problem.bound(&kept).nanos);
    Some((Choice { kept, ring_bytes, pass }, steps))
}

fn bytes(problem: &Problem, kept: &[Residency], which: impl Fn(Residency) -> bool) -> u64 {
    problem.units.iter().zip(kept).filter(|(_, k)| which(**k)).map(|(u, _)| u.bytes).sum()
}

/// Bytes of the units that pass through the ring.
pub(super) fn streamed<'a>(problem: &'a Problem, kept: &'a [Residency]) -> impl Iterator<Item = u64> + 'a {
    let uses = problem.uses();
    let units = problem.units.iter().zip(kept).zip(uses);
    units.filter(|((_, k), uses)| **k != Residency::Device && *uses > 0).map(|((u, _), _)| u.bytes)
}
