//! A lower bound for all choices.

use super::problem::{Problem, Room};

/// Close enough to the floor: a few thousandths are not worth a search.
pub(super) fn enough(floor: u64) -> u64 {
    floor + floor / 500
}

/// What no choice is faster than: the kernels, or the slower link with the room full of what gains most by it.
pub(crate) fn floor(problem: &Problem, room: &Room) -> u64 {
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

/// The link time that remains when `room` bytes need not cross it, the units with most link time per byte
/// first.
fn unavoidable(gains: &mut [(u64, u64)], mut room: u64) -> u64 {
    // Most time per byte first: a/b > c/d  <=>  a*d > c*b.
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
