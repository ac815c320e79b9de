//! Proves a plan safe, whatever made it. Deliberately small, and independent of the planner.

use std::fmt;

use crate::plan::compose::Plan;
use crate::plan::schedule::{Fetch, Residency};

/// What is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// It holds more bytes than the budget allows.
    OverBudget {
        /// `"device"` or `"host"`.
        tier: &'static str,
        /// The most bytes it holds.
        held: u64,
        /// Bytes that it may hold.
        budget: u64,
    },
    /// A stated sum is not the actual sum.
    Miscounted {
        /// Which sum.
        what: &'static str,
        /// The sum that the plan states.
        stated: u64,
        /// The actual sum.
        counted: u64,
    },
    /// It lists no fetches, though units pass through the ring, so nothing is proved.
    NothingListed,
    /// A use or a fetch of a unit that does not exist.
    UnknownUnit {
        /// Its number.
        unit: usize,
    },
    /// A unit is used while it is not on the device: never fetched, fetched too late, or already given back.
    NotLoaded {
        /// The use, counted through all passes.
        position: u64,
        /// The unit.
        unit: usize,
    },
    /// A fetch that no use asks for: of a resident, of a unit other than the one used there, or out of order.
    Unasked {
        /// The use that it names.
        position: u64,
    },
    /// A fetch goes beyond the ring.
    OutsideRing {
        /// The use that it is for.
        position: u64,
    },
    /// A fetch overwrites bytes that are still to be read.
    Overwrites {
        /// The use that it is for.
        position: u64,
        /// The use that the overwritten bytes are for.
        live: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::OverBudget { tier, held, budget } => {
                write!(f, "{held} bytes are held on the {tier}, with a budget of {budget}")
            }
            Violation::Miscounted { what, stated, counted } => {
                write!(f, "{what} are {counted} bytes instead of {stated}")
            }
            Violation::NothingListed => {
                f.write_str("units pass through the ring, and no fetch of them is listed")
            }
            Violation::UnknownUnit { unit } => write!(f, "there is no unit {unit}"),
            Violation::NotLoaded { position, unit } => {
                write!(f, "use {position} is of unit {unit}, which is not on the device then")
            }
            Violation::Unasked { position } => {
                write!(f, "the fetch for use {position} is not needed")
            }
            Violation::OutsideRing { position } => write!(f, "the fetch for use {position} leaves the ring"),
            Violation::Overwrites { position, live } => {
                write!(f, "the fetch for use {position} overwrites what use {live} still reads")
            }
        }
    }
}

impl std::error::Error for Violation {}

/// Checks that a plan keeps to its budgets. Plays through all passes that it lists, and checks that every
/// unit is on the device when it is used and is not overwritten before.
///
/// # Errors
/// The first [`Violation`] found.
pub fn check(plan: &Plan) -> Result<(), Violation> {
    sums(plan)?;
    let len = plan.trace.len() as u64;
    let streams =
        plan.trace.iter().any(|&unit| plan.units.get(unit).is_none_or(|u| u.kept != Residency::Device));
    if streams && plan.passes == 0 {
        return Err(Violation::NothingListed);
    }
    // Without fetches, all passes are like the first.
    let passes = if streams { plan.passes } else { plan.passes.min(1) };
    let mut live: Vec<&Fetch> = Vec::new();
    let mut fetches = plan.fetches.iter().peekable();
    for position in 0..len.saturating_mul(passes) {
        // Every fetch that may be issued by now is issued: the earlier it comes, the more it can overwrite.
        while let Some(fetch) = fetches.next_if(|f| f.after <= position) {
            issue(plan, &live, fetch, position)?;
            live.push(fetch);
        }
        let unit = plan.trace[(position % len) as usize];
        let kept = plan.units.get(unit).ok_or(Violation::UnknownUnit { unit })?.kept;
        if kept != Residency::Device {
            let at = live.iter().position(|f| f.position == position);
            live.remove(at.ok_or(Violation::NotLoaded { position, unit })?);
        }
    }
    Ok(())
}

fn issue(plan: &Plan, live: &[&Fetch], fetch: &Fetch, now: u64) -> Result<(), Violation> {
    let position = fetch.position;
    let used = plan.trace[(position % plan.trace.len() as u64) as usize];
    let unit = plan.units.get(fetch.unit).ok_or(Violation::UnknownUnit { unit: fetch.unit })?;
    let in_turn = live.iter().all(|f| f.position < position) && position >= now;
    if used != fetch.unit || unit.kept == Residency::Device || !in_turn {
        return Err(Violation::Unasked { position });
    }
    let end = fetch.at.checked_add(unit.bytes).filter(|end| *end <= plan.ring_bytes);
    let end = end.ok_or(Violation::OutsideRing { position })?;
    for other in live {
        // Only issued fetches are in `live`, so the unit exists.
        let other_end = other.at + plan.units[other.unit].bytes;
        if fetch.at < other_end && other.at < end {
            return Err(Violation::Overwrites { position, live: other.position });
        }
    }
    Ok(())
}

fn sums(plan: &Plan) -> Result<(), Violation> {
    let sum = |of: Residency| total(plan.units.iter().filter(|u| u.kept == of).map(|u| u.bytes));
    let device = sum(Residency::Device);
    let host = sum(Residency::Host);
    let peak = total([plan.workspace_bytes, plan.session_bytes, plan.ring_bytes, device]);
    let host_peak = total([plan.staging_bytes, host]);
    for (what, stated, counted) in [
        ("residents", plan.resident_bytes, device),
        ("units that wait on the host", plan.host_bytes, host),
        ("the most on the device", plan.peak_bytes, peak),
        ("the most on the host", plan.host_peak_bytes, host_peak),
    ] {
        if stated != counted {
            return Err(Violation::Miscounted { what, stated, counted });
        }
    }
    for (tier, held, budget) in
        [("device", peak, plan.budget_bytes), ("host", host_peak, plan.host_budget_bytes)]
    {
        if held > budget {
            return Err(Violation::OverBudget { tier, held, budget });
        }
    }
    Ok(())
}

/// The sum, saturating: the plan may come from anywhere.
fn total(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}
