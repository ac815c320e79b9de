//! What the plan in force was made for, and whether it will do for the next pass.

use crate::observe::event::EvictionReason;
use crate::plan::compose::Planned;
use crate::plan::schedule::Residency;
use crate::spec::LayerId;

/// A remade plan takes one part in `STEP` more workspace, so that a growing activation does not cause another
/// plan at each pass.
const STEP: u64 = 8;

/// What a pass requires of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Bytes of activations and scratch.
    pub(super) workspace: u64,
    /// Layers in order of use.
    pub(super) trace: Vec<LayerId>,
    /// Whether the order is a guess, so that the pass may use other layers too.
    pub(super) guessed: bool,
}

/// The memory available to a plan, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Means {
    /// The limit of the device budget, and of the host's.
    pub(super) limit: u64,
    pub(super) host_limit: u64,
    /// Of the device budget, what others do not hold, and the part of it that sessions hold.
    pub(super) budget: u64,
    pub(super) session: u64,
    /// Of the host budget, what weights may take.
    pub(super) host: u64,
}

/// What the plan in force was made for.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    need: Need,
    means: Means,
    /// Bytes that the plan has for activations, at least those needed.
    workspace: u64,
    /// Bytes that it holds on the device, without sessions, and in weights on the host.
    device: u64,
    host: u64,
    /// Whether more memory would be of any use.
    wants_more: bool,
}

impl Terms {
    pub(super) fn new(need: Need, means: Means, plan: &Planned) -> Terms {
        let data = &plan.data;
        Terms {
            need,
            means,
            workspace: data.workspace_bytes,
            device: data.peak_bytes - data.session_bytes,
            host: data.host_bytes,
            wants_more: plan.residency.iter().any(|residency| *residency != Residency::Device),
        }
    }

    pub(super) fn need(&self) -> &Need {
        &self.need
    }

    /// Of the device budget, what others did not hold.
    pub(super) fn budget(&self) -> u64 {
        self.means.budget
    }

    /// Whether a larger limit would lead to another plan.
    pub(super) fn would_use(&self, limit: u64) -> bool {
        limit > self.means.limit && self.wants_more
    }

    /// Whether the plan will do for a pass: the pass requires no more, and everything the plan holds may
    /// still be held. `may_grow` says whether an increased budget should be used; what sessions gave back
    /// always is.
    pub(super) fn cover(
        &self,
        (workspace, trace, guessed): (u64, &[LayerId], bool),
        means: Means,
        may_grow: bool,
    ) -> bool {
        let asks_no_more =
            workspace <= self.workspace && (self.need.guessed || !guessed) && trace == self.need.trace;
        let held = self.device.saturating_add(means.session);
        let fits = held <= means.budget && self.host <= means.host;
        let grown = means.limit > self.means.limit || means.host_limit > self.means.host_limit;
        let more = may_grow && grown || means.session < self.means.session;
        asks_no_more && fits && !(more && self.wants_more)
    }

    /// A larger workspace that would be better than the needed one, if it costs no more residents than the
    /// extra bytes.
    pub(super) fn roomier(&self, need: &Need, align: u64) -> Option<u64> {
        if need.trace != self.need.trace {
            return None;
        }
        let wish = if need.workspace > self.workspace {
            need.workspace.checked_add(need.workspace / STEP)?.checked_next_multiple_of(align)?
        } else {
            self.workspace
        };
        (wish > need.workspace).then_some(wish)
    }

    /// Why a plan for another need, or with other memory, evicts what this one kept.
    pub(super) fn reason(&self, need: &Need, means: Means) -> EvictionReason {
        if need.workspace > self.workspace {
            EvictionReason::Workspace
        } else if means.session > self.means.session {
            EvictionReason::Session
        } else if means.budget != self.means.budget {
            EvictionReason::Budget
        } else if need.trace != self.need.trace {
            EvictionReason::Trace
        } else {
            EvictionReason::Costs
        }
    }
}

/// Whether a plan with more workspace is as good as the exact one except for the extra bytes: it keeps
/// everything else, in whole units.
pub(super) fn as_good(exact: &Planned, roomier: &Planned) -> bool {
    let (exact, roomier) = (&exact.data, &roomier.data);
    let step = roomier.workspace_bytes - exact.workspace_bytes;
    let evicted = exact.resident_bytes.saturating_sub(roomier.resident_bytes);
    let from_host = exact.host_bytes.saturating_sub(roomier.host_bytes);
    let streams_no_more = (exact.ring_bytes == 0) == (roomier.ring_bytes == 0);
    let unit = exact.units.iter().map(|unit| unit.bytes).max().unwrap_or(0);
    evicted <= step + unit && from_host <= step + unit && streams_no_more
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::compose::Plan;

    const MEANS: Means = Means { limit: 1000, host_limit: 500, budget: 900, session: 100, host: 400 };

    fn terms(resident: bool) -> Terms {
        let data = Plan { workspace_bytes: 100, peak_bytes: 800, host_bytes: 300, ..Plan::default() };
        let data = Plan { session_bytes: 100, ..data };
        let other = if resident { Residency::Device } else { Residency::Source };
        let residency = vec![Residency::Device, other];
        let plan = Planned { data: Arc::new(data), residency, ..Planned::default() };
        Terms::new(Need { workspace: 80, trace: trace(2), guessed: false }, MEANS, &plan)
    }

    fn trace(layers: usize) -> Vec<LayerId> {
        (0..layers).map(LayerId).collect()
    }

    #[test]
    fn a_plan_does_for_what_asks_no_more() {
        let covers = |workspace, layers, guessed| {
            terms(false).cover((workspace, &trace(layers), guessed), MEANS, true)
        };
        assert!(covers(0, 2, false) && covers(80, 2, false) && covers(100, 2, false));
        assert!(!covers(101, 2, false) && !covers(80, 3, false) && !covers(80, 2, true));
        let mut guessed = terms(false);
        guessed.need.guessed = true;
        assert!(guessed.cover((80, &trace(2), false), MEANS, true));
    }

    #[test]
    fn a_plan_does_while_what_it_holds_may_be_held() {
        let covers = |stays, means, may_grow| terms(stays).cover((80, &trace(2), false), means, may_grow);
        // Less than it was made for, but enough.
        assert!(covers(false, Means { limit: 900, budget: 800, host: 300, ..MEANS }, true));
        assert!(!covers(false, Means { budget: 799, ..MEANS }, true));
        assert!(!covers(false, Means { host: 299, ..MEANS }, true));
        // More, where it is useful and asked for.
        let more = Means { limit: 1001, ..MEANS };
        assert!(!covers(false, more, true) && covers(true, more, true) && covers(false, more, false));
        assert!(!covers(false, Means { host_limit: 501, ..MEANS }, true));
        // Sessions hold more or less than before.
        assert!(covers(false, Means { session: 200, ..MEANS }, true));
        assert!(!covers(false, Means { session: 201, ..MEANS }, true));
        let given_back = Means { session: 99, ..MEANS };
        assert!(!covers(false, given_back, false) && covers(true, given_back, false));
        // Others hold less than before, but growth was not asked for.
        assert!(covers(false, Means { budget: 1000, ..MEANS }, true));
    }

    #[test]
    fn workspaces_grow_in_steps() {
        let need = |workspace| Need { workspace, trace: trace(2), guessed: false };
        assert_eq!(terms(false).roomier(&need(800), 256), Some(1024));
        assert_eq!(terms(false).roomier(&need(90), 256), Some(100), "kept where it was made");
        assert_eq!(terms(false).roomier(&need(100), 256), None);
        assert_eq!(terms(false).roomier(&need(u64::MAX), 256), None);
        assert_eq!(terms(false).roomier(&Need { trace: trace(1), ..need(800) }, 256), None);
    }
}
