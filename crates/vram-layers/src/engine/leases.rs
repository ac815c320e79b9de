//! The weights that leases hold.

use std::sync::Arc;

use vram_device::Ticket;

use super::guard::{keep, retire, was_last};
use super::slot::Weights;
use crate::plan::partition::UnitId;

#[derive(Default)]
pub(super) struct Leases {
    // Invariants:
    // 1. A unit is in `held` once, with at least one lease, exactly while it is in the `Computation` state.
    // 2. `sticky` is a unit of the ring that no lease holds.
    /// Units under lease: only a few at a time.
    held: Vec<Held>,
    /// The unit that was leased last.
    last: Option<UnitId>,
    sticky: Option<Sticky>,
    /// Weights of dropped leases, kept until kernels that may read them are done.
    quarantine: Vec<Arc<Weights>>,
}

/// A unit under lease.
struct Held {
    unit: UnitId,
    weights: Arc<Weights>,
    leases: usize,
    /// The last ticket of the leases that have ended.
    done: Option<Ticket>,
}

/// Weights of a finished lease, kept until another unit is asked for: consecutive uses count as one.
struct Sticky {
    unit: UnitId,
    weights: Arc<Weights>,
    done: Ticket,
}

/// What the end of a unit's last lease leaves.
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

    /// Takes the weights of the unit whose lease ended last.
    pub(super) fn take_sticky(&mut self, unit: UnitId) -> Option<Arc<Weights>> {
        self.sticky.take_if(|sticky| sticky.unit == unit).map(|sticky| sticky.weights)
    }

    /// Adds a lease of a unit that is under lease. Returns its weights, and whether another unit was leased
    /// in between.
    pub(super) fn hold_again(&mut self, unit: UnitId) -> Option<(Arc<Weights>, bool)> {
        let held = self.held.iter_mut().find(|held| held.unit == unit)?;
        held.leases += 1;
        let weights = Arc::clone(&held.weights);
        let after_another = self.last != Some(unit);
        self.last = Some(unit);
        Some((weights, after_another))
    }

    /// Ends one lease of a unit. Returns what it held if it was the last.
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

    /// Gives back what the last finished lease left. Returns whether there was anything.
    pub(super) fn let_go(&mut self) -> bool {
        let Some(Sticky { weights, done, .. }) = self.sticky.take() else { return false };
        give_back(weights, done);
        true
    }

    /// Keeps the weights of a dropped lease.
    pub(super) fn quarantine(&mut self, weights: Arc<Weights>) {
        keep(&mut self.quarantine, weights);
    }

    /// Takes the weights of dropped leases.
    pub(super) fn end_quarantine(&mut self) -> Vec<Arc<Weights>> {
        std::mem::take(&mut self.quarantine)
    }

    /// The next pass may begin with any unit.
    pub(super) fn end_pass(&mut self) {
        self.last = None;
    }

    /// Forgets units of a plan that is no longer in force; leases of them continue to hold their weights.
    pub(super) fn forget(&mut self) {
        self.held.clear();
        self.last = None;
    }
}

/// Gives weights back if this is their last owner; kernels up to `done` may still read them.
pub(super) fn give_back(weights: Arc<Weights>, done: Ticket) {
    if let Some(weights) = Arc::into_inner(weights) {
        retire(weights, done);
    }
}
