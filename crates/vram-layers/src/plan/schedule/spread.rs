//! Ways to spread the units that stay through the order of use.

use super::problem::{Problem, Residency};

/// Units smaller than this fraction of all bytes, and of the mean size, cost latency rather than bandwidth.
const SMALL: u64 = 4096;
const SMALL_OF_MEAN: u64 = 8;

/// A way to spread the units that stay.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spread {
    /// Over any stretch of the order, units that stay get the same share of bytes as over the whole. The
    /// first one comes when `owed_first` 64ths of its share have passed.
    Bytes { owed_first: u64 },
    /// Transfers through the ring keep pace with the kernels.
    Time,
    /// Most link time per byte first.
    Dearest,
    /// Largest first, so that a small ring suffices for the others.
    Largest,
}

pub(super) const SPREADS: [Spread; 6] = [
    Spread::Bytes { owed_first: 0 },
    Spread::Time,
    Spread::Bytes { owed_first: 32 },
    Spread::Bytes { owed_first: 63 },
    Spread::Dearest,
    Spread::Largest,
];

impl Spread {
    /// Marks units that are not kept anywhere yet, up to `room` bytes.
    pub(super) fn choose(self, problem: &Problem, mut room: u64, kept: &mut [Residency], place: Residency) {
        let mut seen = vec![false; problem.units.len()];
        let order: Vec<usize> = problem
            .trace
            .iter()
            .copied()
            .filter(|&u| kept[u] == Residency::Source && !std::mem::replace(&mut seen[u], true))
            .collect();
        let total: u64 = order.iter().map(|&u| problem.units[u].bytes).sum();
        let mean = total / order.len().max(1) as u64;
        let small = (total / SMALL).min(mean / SMALL_OF_MEAN);
        let mut take = |unit: usize, room: &mut u64| {
            let bytes = problem.units[unit].bytes;
            let fits = kept[unit] == Residency::Source && bytes <= *room;
            if fits {
                kept[unit] = place;
                *room -= bytes;
            }
            fits
        };
        let (small, large): (Vec<usize>, Vec<usize>) =
            order.iter().partition(|&&u| problem.units[u].bytes < small);
        small.iter().for_each(|&unit| {
            take(unit, &mut room);
        });
        match self {
            Spread::Bytes { owed_first } => spread_bytes(problem, &large, owed_first, &mut room, &mut take),
            Spread::Time => spread_time(problem, &large, &mut room, &mut take),
            Spread::Largest => {
                let mut by = large.clone();
                by.sort_by_key(|&u| std::cmp::Reverse(problem.units[u].bytes));
                by.iter().for_each(|&unit| {
                    take(unit, &mut room);
                });
            }
            Spread::Dearest => {
                let uses = problem.uses();
                let time = |u: usize| u128::from(link(problem, u) * uses[u]);
                let mut by = large.clone();
                by.sort_by_key(|&u| {
                    std::cmp::Reverse(time(u) * 1_000_000 / u128::from(problem.units[u].bytes.max(1)))
                });
                by.iter().for_each(|&unit| {
                    take(unit, &mut room);
                });
            }
        }
        for &unit in &large {
            take(unit, &mut room);
        }
    }
}

/// The slower of the links that a unit crosses.
fn link(problem: &Problem, unit: usize) -> u64 {
    problem.units[unit].disk.max(problem.units[unit].bus)
}

fn spread_bytes(
    problem: &Problem,
    units: &[usize],
    owed_first: u64,
    room: &mut u64,
    take: &mut impl FnMut(usize, &mut u64) -> bool,
) {
    let total: u128 = units.iter().map(|&u| u128::from(problem.units[u].bytes)).sum();
    let share = u128::from(*room);
    let mut owed =
        total * u128::from(units.first().map_or(0, |&u| problem.units[u].bytes)) * u128::from(owed_first)
            / 64;
    for &unit in units {
        let bytes = u128::from(problem.units[unit].bytes);
        owed += bytes * share;
        if owed >= bytes * total && take(unit, room) {
            owed -= bytes * total;
        }
    }
}

fn spread_time(
    problem: &Problem,
    units: &[usize],
    room: &mut u64,
    take: &mut impl FnMut(usize, &mut u64) -> bool,
) {
    let total: u128 = units.iter().map(|&u| u128::from(problem.units[u].bytes)).sum();
    let streamed = total.saturating_sub(u128::from(*room));
    let compute: u128 = units.iter().map(|&u| u128::from(problem.units[u].compute)).sum();
    // Link time that the kernels have earned so far, in units of bytes * compute.
    let mut earned: u128 = 0;
    for &unit in units {
        let cost = &problem.units[unit];
        earned += u128::from(cost.compute) * streamed;
        let price = u128::from(cost.bytes) * compute;
        if earned >= price / 2 {
            earned = earned.saturating_sub(price);
        } else if !take(unit, room) {
            earned = 0;
        }
    }
}
