//! Chooses which units stay: simulates candidates that spread them through the depth, and improves the best.

use super::candidate::{Choice, WORTH, evaluate, streamed};
use super::floor::{enough, floor};
use super::problem::{Problem, Residency, Room};
use super::search::improve;
use super::spread::SPREADS;

/// Simulation steps that all candidates may take together: tens of milliseconds. The first candidate is
/// always tried.
const STEPS: u64 = 2_000_000;

/// Sizes of units for which a ring of their own is tried.
const SIZES: usize = 6;

/// Chooses what stays. Nothing stays if there is no room for more than the largest unit. Among equally fast
/// candidates, the first one tried wins: units spread by bytes.
pub fn choose(problem: &Problem, room: &Room) -> Choice {
    let all: Vec<Residency> = problem
        .uses()
        .into_iter()
        .map(|n| if n > 0 { Residency::Device } else { Residency::Source })
        .collect();
    if let Some((choice, _)) = evaluate(problem, room, &all) {
        return choice;
    }
    let nothing = vec![Residency::Source; problem.units.len()];
    let floor = floor(problem, room);
    let mut best: Option<(u64, Choice)> = None;
    let mut left = STEPS;
    'search: for (ring, preferred) in rings(problem, room) {
        let share = room.device.saturating_sub(ring);
        for spread in SPREADS {
            if left == 0 {
                break 'search;
            }
            let mut kept = nothing.clone();
            spread.choose(problem, share, &mut kept, Residency::Device);
            if let Some((choice, steps)) = evaluate(problem, room, &kept) {
                left = left.saturating_sub(steps);
                let score = choice.score(problem, room);
                let bar = best.as_ref().map(|(b, _)| b - if preferred { 0 } else { b / WORTH });
                if bar.is_none_or(|bar| score < bar) {
                    best = Some((score, choice));
                }
            }
            if best.as_ref().is_some_and(|(score, _)| *score <= floor) {
                break;
            }
        }
        if best.as_ref().is_some_and(|(score, _)| *score <= enough(floor)) {
            break;
        }
    }
    let best = best.map(|(_, choice)| choice).or_else(|| Some(evaluate(problem, room, &nothing)?.0));
    let best = best.unwrap_or(Choice { kept: nothing, ring_bytes: room.device, pass: u64::MAX });
    improve(problem, room, best, floor)
}

/// Ring sizes to try, and whether each is the preferred one.
fn rings(problem: &Problem, room: &Room) -> Vec<(u64, bool)> {
    if let Some(ring) = room.ring {
        return vec![(ring, true)];
    }
    let largest = streamed(problem, &vec![Residency::Source; problem.units.len()]).max().unwrap_or(0);
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
