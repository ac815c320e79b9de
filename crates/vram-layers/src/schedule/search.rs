//! Improves a choice by changing one or two units at a time.

use super::choose::{Choice, Room, evaluate};
use super::{Kept, Problem};

/// Steps of simulation that a search may take in all: tens of milliseconds.
const STEPS: usize = 400_000;

/// Below this many units every choice is tried.
const FEW: usize = 10;

/// Goes from better to better choice until none is near, the floor is reached, or the search has taken its share of
/// time. Deterministic.
pub(super) fn improve(problem: &Problem, room: &Room, best: Choice, floor: u64) -> Choice {
    // A few thousandths are not worth a search.
    let enough = floor + floor / 500;
    if best.pass <= enough {
        return best;
    }
    let used: Vec<usize> = {
        let uses = problem.uses();
        (0..problem.units.len()).filter(|&u| uses[u] > 0).collect()
    };
    if used.len() <= FEW {
        return every_choice(problem, room, best, &used);
    }
    let mut search = Search { problem, room, best, left: STEPS / (8 * problem.trace.len().max(1)) };
    while search.best.pass > enough && search.round(&used) {}
    search.best
}

fn every_choice(problem: &Problem, room: &Room, mut best: Choice, used: &[usize]) -> Choice {
    for set in 0..1usize << used.len() {
        let mut kept = vec![Kept::Nowhere; problem.units.len()];
        for (bit, &unit) in used.iter().enumerate() {
            if set >> bit & 1 == 1 {
                kept[unit] = Kept::Device;
            }
        }
        if let Some(choice) = evaluate(problem, room, &kept)
            && choice.pass < best.pass
        {
            best = choice;
        }
    }
    best
}

struct Search<'a> {
    problem: &'a Problem,
    room: &'a Room,
    best: Choice,
    /// Simulations that may still be made.
    left: usize,
}

impl Search<'_> {
    /// Tries what is one change away. Whether any of it was better.
    fn round(&mut self, used: &[usize]) -> bool {
        let before = self.best.pass;
        for &unit in used {
            self.attempt(&[unit]);
        }
        for (i, &a) in used.iter().enumerate() {
            // Neighbours first: a unit that stays a little earlier or later is the likeliest gain.
            for &b in used[i + 1..].iter() {
                if (self.best.kept[a] == Kept::Device) != (self.best.kept[b] == Kept::Device) {
                    self.attempt(&[a, b]);
                }
                if self.left == 0 {
                    return false;
                }
            }
        }
        self.best.pass < before
    }

    /// Lets units that stayed go and those stay that did not, if that is faster.
    fn attempt(&mut self, units: &[usize]) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        let mut kept = self.best.kept.clone();
        for &unit in units {
            kept[unit] = if kept[unit] == Kept::Device { Kept::Nowhere } else { Kept::Device };
        }
        if let Some(choice) = evaluate(self.problem, self.room, &kept)
            && choice.pass < self.best.pass
        {
            self.best = choice;
        }
    }
}
