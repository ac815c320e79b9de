//! What leases hold.

use std::sync::Arc;

use vram_device::Ticket;

use super::guard::{keep, retire, was_last};
use super::slot::Weights;
use crate::plan::partition::UnitId;

#[derive(Default)]
pub(super) struct Leases {
    // Invariants:
    // 1. A unit is in `held` once, with at least one lease, exactly while it is in the state of
    //    computation.
    // 2. `sticky` is a unit of the ring that no lease holds.
    /// Units under lease: few at a time.
    held: Vec<Held>,
    /// The unit that was leased last.
    last: Option<UnitId>,
    sticky: Option<Sticky>,
    /// What dropped leases held, until kernels that may read it are done.
    quarantine: Vec<Arc<Weights>>,
}

/// A unit under lease.
struct Held {
    unit: UnitId,
    weights: Arc<Weights>,
    leases: usize,
    /// The last ticket of the leases that are over.
    done: Option<Ticket>,
}

/// Weights that a finished lease gave back, kept until another unit is asked for: uses in a row count as
/// one.
struct Sticky {
    unit: UnitId,
    weights: Arc<Weights>,
    done: Ticket,
}

/// What ended with a unit's last lease.
pub(super) struct Ended {
    pub(super) weights: Arc<Weights>,
    pub(super) done: Option<Ticket>,
}

impl Leases {
    /// Holds the weights of a unit under its first lease.
    pub(super) fn hold(&mut self, unit: UnitId, weights: &Arc<Weights>) {
        self.held.push(Held { unit, weights: Arc::clone(weights), leases: 1, done: None });
        self.last = Some(unit);
    }

    /// Takes the weights of a unit whose last lease ended just now.
    pub(super) fn take_sticky(&mut self, unit: UnitId) -> Option<Arc<Weights>> {
        self.sticky.take_if(|sticky| sticky.unit == unit).map(|sticky| sticky.weights)
    }

    /// Another lease of a unit that is under lease: its weights, and whether another unit was leased
    /// meanwhile.
    pub(super) fn hold_again(&mut self, unit: UnitId) -> Option<(Arc<Weights>, bool)> {
        let held = self.held.iter_mut().find(|held| held.unit == unit)?;
        held.leases += 1;
        let weights = Arc::clone(&held.weights);
        let after_another = self.last != Some(unit);
        self.last = Some(unit);
        Some((weights, after_another))
    }

    /// Ends one lease of a unit; what it held, if it was the last.
    pub(super) fn end(&mut self, unit: UnitId, done: Option<Ticket>) -> Option<Ended> {
        let at = self.held.iter().position(|held| held.unit == unit)?;
        let held = &mut self.held[at];
        held.leases -= 1;
        held.done = held.done.max(done);
        if !was_last(held.leases) {
            return None;
        }
        let Held { weights, done, .. } = self.held.swap_remove(at);
        Some(Ended { weights, done })
    }

    /// Keeps the weights of a unit whose last lease was finished, until another unit is asked for.
    pub(super) fn stick(&mut self, unit: UnitId, weights: Arc<Weights>, done: Ticket) {
        self.sticky = Some(Sticky { unit, weights, done });
    }

    /// Gives back what the last lease left. Whether it had left anything.
    pub(super) fn let_go(&mut self) -> bool {
        let Some(Sticky { weights, done, .. }) = self.sticky.take() else { return false };
        give_back(weights, done);
        true
    }

    /// Keeps what a dropped lease held.
    pub(super) fn quarantine(&mut self, weights: Arc<Weights>) {
        keep(&mut self.quarantine, weights);
    }

    /// Takes what dropped leases held.
    pub(super) fn end_quarantine(&mut self) -> Vec<Arc<Weights>> {
        std::mem::take(&mut self.quarantine)
    }

    /// The next pass begins with any unit.
    pub(super) fn end_pass(&mut self) {
        self.last = None;
    }

    /// Forgets units of a plan that is no longer in force; leases of them go on to hold their weights.
    pub(super) fn forget(&mut self) {
        self.held.clear();
        self.last = None;
    }
}

/// Gives weights back if nobody else holds them; kernels up to `done` may still read them.
pub(super) fn give_back(weights: Arc<Weights>, done: Ticket) {
    if let Some(weights) = Arc::into_inner(weights) {
        retire(weights, done);
    }
}
