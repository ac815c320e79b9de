//! Improves a choice by changing a few units at a time.

use super::candidate::{Choice, evaluate, passes};
use super::floor::enough;
use super::problem::{Problem, Residency, Room};

/// Uses that all simulations of a search may step through: tens of milliseconds.
const STEPS: usize = 400_000;

/// Up to this many units, every choice is tried, unless a pass uses the units over and over.
const FEW: usize = 12;

/// The most units in which a neighbouring choice differs.
const REACH: usize = 3;

/// Moves to better neighbours until there are none, the floor is reached, or the search has used up its
/// steps. Deterministic.
pub(super) fn improve(problem: &Problem, room: &Room, best: Choice, floor: u64) -> Choice {
    let enough = enough(floor);
    let score = best.score(problem, room);
    if score <= enough {
        return best;
    }
    let used: Vec<usize> = {
        let uses = problem.uses();
        (0..problem.units.len()).filter(|&u| uses[u] > 0).collect()
    };
    let uses = passes(problem) * problem.trace.len().max(1);
    if used.len() <= FEW && uses << used.len() <= 2 * STEPS {
        return every_choice(problem, room, best, &used);
    }
    let mut search = Search { problem, room, best, score, left: STEPS / uses };
    while search.score > enough && search.round(&used) {}
    search.best
}

fn every_choice(problem: &Problem, room: &Room, mut best: Choice, used: &[usize]) -> Choice {
    let mut score = best.score(problem, room);
    for set in 0..1usize << used.len() {
        let mut kept = vec![Residency::Source; problem.units.len()];
        for (bit, &unit) in used.iter().enumerate() {
            if set >> bit & 1 == 1 {
                kept[unit] = Residency::Device;
            }
        }
        if let Some((choice, _)) = evaluate(problem, room, &kept) {
            let of_this = choice.score(problem, room);
            if of_this < score {
                (best, score) = (choice, of_this);
            }
        }
    }
    best
}

struct Search<'a> {
    problem: &'a Problem,
    room: &'a Room,
    best: Choice,
    score: u64,
    /// Simulations that may still be made.
    left: usize,
}

impl Search<'_> {
    /// Tries the neighbours, nearest first. Returns whether any was better.
    fn round(&mut self, used: &[usize]) -> bool {
        (1..=REACH).any(|units| self.within(used, units, &mut Vec::with_capacity(units)))
    }

    /// Tries all choices that differ in `more` units besides those already picked. Returns whether any was
    /// better.
    fn within(&mut self, used: &[usize], more: usize, picked: &mut Vec<usize>) -> bool {
        if more == 0 {
            return self.attempt(picked);
        }
        let mut better = false;
        for (i, &unit) in used.iter().enumerate() {
            picked.push(unit);
            better |= self.within(&used[i + 1..], more - 1, picked);
            picked.pop();
            if self.left == 0 {
                break;
            }
        }
        better
    }

    /// Evicts those of the units that stayed and keeps those that did not, if that is faster.
    fn attempt(&mut self, units: &[usize]) -> bool {
        let stays = |unit: &usize| self.best.kept[*unit] == Residency::Device;
        if units.len() > 1 && (units.iter().all(stays) || !units.iter().any(stays)) {
            // All in one direction: changing one at a time finds that.
            return false;
        }
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let mut kept = self.best.kept.clone();
        for &unit in units {
            kept[unit] = if kept[unit] == Residency::Device { Residency::Source } else { Residency::Device };
        }
        match evaluate(self.problem, self.room, &kept) {
            Some((choice, _)) => {
                let score = choice.score(self.problem, self.room);
                let better = score < self.score;
                if better {
                    (self.best, self.score) = (choice, score);
                }
                better
            }
            None => false,
        }
    }
}
