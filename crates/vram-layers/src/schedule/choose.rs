//! Which units stay: candidates that spread them through the depth, each simulated, the best improved.

use super::search::improve;
use super::simulate::simulate;
use super::{Kept, Problem};

/// Passes that a candidate is simulated for: the first half of them fills the ring.
const PASSES: usize = 8;

/// A larger ring than the one asked for has to pay: by one part in so many.
const WORTH: u64 = 50;

/// Units whose bytes are a smaller part of all bytes than this cost latency and not bandwidth.
const SMALL: u64 = 4096;

/// Sizes of units for which a ring of their own is tried.
const SIZES: usize = 6;

/// What there is to hold weights in.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes on the device, for residents and ring together.
    pub device: u64,
    /// Bytes on the host, for weights that wait there.
    pub host: u64,
    /// Bytes of the ring, if that is not to be chosen.
    pub ring: Option<u64>,
    /// Bytes that the ring has at least, for units that are not in the trace.
    pub least_ring: u64,
    /// Bytes above which a ring is of no more use than residents are.
    pub target_ring: u64,
}

/// What stays where, and how fast that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Where each unit is kept.
    pub kept: Vec<Kept>,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// Nanoseconds of a pass in the long run.
    pub pass: u64,
}

/// Chooses what stays. Nothing does if the room has place for no more than the largest unit. Of candidates that are as
/// fast, the first one that was thought of: units spread by bytes.
pub fn choose(problem: &Problem, room: &Room) -> Choice {
    let all: Vec<Kept> =
        problem.uses().into_iter().map(|n| if n > 0 { Kept::Device } else { Kept::Nowhere }).collect();
    if let Some(choice) = evaluate(problem, room, &all) {
        return choice;
    }
    let nothing = vec![Kept::Nowhere; problem.units.len()];
    let floor = floor(problem, room);
    let mut best: Option<Choice> = None;
    for (ring, preferred) in rings(problem, room) {
        let share = room.device.saturating_sub(ring);
        for spread in SPREADS {
            let mut kept = nothing.clone();
            spread.choose(problem, share, &mut kept, Kept::Device);
            if let Some(choice) = evaluate(problem, room, &kept) {
                let bar = best.as_ref().map(|b| b.pass - if preferred { 0 } else { b.pass / WORTH });
                if bar.is_none_or(|bar| choice.pass < bar) {
                    best = Some(choice);
                }
            }
            if best.as_ref().is_some_and(|b| b.pass <= floor) {
                break;
            }
        }
        if best.as_ref().is_some_and(|b| b.pass <= enough(floor)) {
            break;
        }
    }
    let best = best.or_else(|| evaluate(problem, room, &nothing));
    let best = best.unwrap_or(Choice { kept: nothing, ring_bytes: room.device, pass: u64::MAX });
    improve(problem, room, best, floor)
}

/// The choice that keeps these units on the device and as many of the others as fit on the host; `None` if it does
/// not fit.
pub(super) fn evaluate(problem: &Problem, room: &Room, on_device: &[Kept]) -> Option<Choice> {
    let mut kept: Vec<Kept> =
        on_device.iter().map(|k| if *k == Kept::Device { Kept::Device } else { Kept::Nowhere }).collect();
    let resident: u64 = bytes(problem, &kept, |k| k == Kept::Device);
    let left = room.device.checked_sub(resident)?;
    let largest = streamed(problem, &kept).max().unwrap_or(0).max(room.least_ring);
    if largest > left {
        return None;
    }
    // What a pass streams and what the next one does: further ahead than that nobody fetches.
    let all = (2 * streamed(problem, &kept).sum::<u64>()).max(room.least_ring);
    if resident > 0 && room.ring.is_some_and(|ring| ring.min(all) > left) {
        return None;
    }
    let ring_bytes = room.ring.unwrap_or(room.target_ring).min(all).max(largest).min(left);
    if room.host > 0 && !problem.machine.host_visible {
        Spread::Bytes { owed_first: 0 }.choose(problem, room.host, &mut kept, Kept::Host);
    }
    let timeline = simulate(problem, &kept, ring_bytes, PASSES)?;
    // Where the window of a few passes ends within the read-ahead, it may seem to beat the bound.
    let pass = timeline.steady().max(problem.bound(&kept).nanos);
    Some(Choice { kept, ring_bytes, pass })
}

fn bytes(problem: &Problem, kept: &[Kept], which: impl Fn(Kept) -> bool) -> u64 {
    problem.units.iter().zip(kept).filter(|(_, k)| which(**k)).map(|(u, _)| u.bytes).sum()
}

/// Bytes of the units that pass through the ring.
fn streamed<'a>(problem: &'a Problem, kept: &'a [Kept]) -> impl Iterator<Item = u64> + 'a {
    let uses = problem.uses();
    let units = problem.units.iter().zip(kept).zip(uses);
    units.filter(|((_, k), uses)| **k != Kept::Device && *uses > 0).map(|((u, _), _)| u.bytes)
}

/// Near enough to the floor: a few thousandths are not worth a search.
pub(super) fn enough(floor: u64) -> u64 {
    floor + floor / 500
}

/// What no choice is faster than: the kernels, or the slower link with the room full of what gains most by it.
fn floor(problem: &Problem, room: &Room) -> u64 {
    let uses = problem.uses();
    let compute: u64 = problem.trace.iter().map(|&u| problem.units[u].compute).sum();
    let mut gains: Vec<(u64, u64)> =
        problem.units.iter().zip(&uses).map(|(u, n)| (u.bus * n, u.bytes)).collect();
    let bus = unavoidable(&mut gains, room.device);
    let mut gains: Vec<(u64, u64)> =
        problem.units.iter().zip(&uses).map(|(u, n)| (u.disk * n, u.bytes)).collect();
    let disk = unavoidable(&mut gains, room.device.saturating_add(room.host));
    if problem.machine.one_queue { disk.max(compute + bus) } else { disk.max(bus).max(compute) }
}

/// What is left of the time of a link when so many bytes need not cross it, the dearest first.
fn unavoidable(gains: &mut [(u64, u64)], mut room: u64) -> u64 {
    // Dearest first: a/b > c/d  <=>  a*d > c*b.
    gains.sort_by(|a, b| (u128::from(b.0) * u128::from(a.1)).cmp(&(u128::from(a.0) * u128::from(b.1))));
    let mut left = 0;
    for &(time, bytes) in gains.iter() {
        let spared = bytes.min(room);
        room -= spared;
        if spared < bytes {
            left += (u128::from(time) * u128::from(bytes - spared) / u128::from(bytes.max(1))) as u64;
        }
    }
    left
}

/// Sizes of the ring to leave room for, and whether each is the size that is wanted where nothing speaks against it.
fn rings(problem: &Problem, room: &Room) -> Vec<(u64, bool)> {
    if let Some(ring) = room.ring {
        return vec![(ring, true)];
    }
    let largest = streamed(problem, &vec![Kept::Nowhere; problem.units.len()]).max().unwrap_or(0);
    let wanted = room.target_ring.min(room.device / 2).max(largest).max(room.least_ring);
    let mut rings = vec![(wanted, true)];
    let multiples = [2, 3, 4, 1, 6].map(|n| n * largest);
    // A ring for the smaller units alone, with the larger ones kept.
    let mut sizes: Vec<u64> = problem.trace.iter().map(|&u| problem.units[u].bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let step = sizes.len().div_ceil(SIZES).max(1);
    let smaller = sizes.iter().rev().skip(1).step_by(step).flat_map(|size| [2 * size, 4 * size]);
    for ring in multiples.into_iter().chain(smaller) {
        let ring = ring.max(room.least_ring).max(1);
        if ring <= room.device && rings.iter().all(|(r, _)| *r != ring) {
            rings.push((ring, false));
        }
    }
    rings
}

/// A way to spread what stays.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// In every stretch of the order, units that stay get the share of bytes that they get of the whole; the first of
    /// them when so many 64ths of it have passed.
    Bytes { owed_first: u64 },
    /// What passes through the ring keeps step with the kernels.
    Time,
    /// The dearest link time for its bytes first.
    Dearest,
    /// The largest first, so that a small ring does for the others.
    Largest,
}

const SPREADS: [Spread; 6] = [
    Spread::Bytes { owed_first: 0 },
    Spread::Time,
    Spread::Bytes { owed_first: 32 },
    Spread::Bytes { owed_first: 63 },
    Spread::Dearest,
    Spread::Largest,
];

impl Spread {
    /// Marks units that are kept nowhere yet as kept, up to `room` bytes.
    fn choose(self, problem: &Problem, mut room: u64, kept: &mut [Kept], place: Kept) {
        let mut seen = vec![false; problem.units.len()];
        let order: Vec<usize> = problem
            .trace
            .iter()
            .copied()
            .filter(|&u| kept[u] == Kept::Nowhere && !std::mem::replace(&mut seen[u], true))
            .collect();
        let total: u64 = order.iter().map(|&u| problem.units[u].bytes).sum();
        let mut take = |unit: usize, room: &mut u64| {
            let bytes = problem.units[unit].bytes;
            let fits = kept[unit] == Kept::Nowhere && bytes <= *room;
            if fits {
                kept[unit] = place;
                *room -= bytes;
            }
            fits
        };
        let (small, large): (Vec<usize>, Vec<usize>) =
            order.iter().partition(|&&u| problem.units[u].bytes < total / SMALL);
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
