//! What passes did.

use std::collections::VecDeque;

use serde::Serialize;

use crate::observe::event::{EvictionReason, StallCause};

/// A wait of the computing thread for weights.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stall {
    /// For which unit.
    pub unit: String,
    /// Why its weights were not there.
    pub cause: StallCause,
    /// How long.
    pub seconds: f64,
}

/// A unit that stayed on the device and was evicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Eviction {
    /// Which.
    pub unit: String,
    /// Bytes that it held.
    pub bytes: u64,
    /// Why.
    pub reason: EvictionReason,
}

/// One pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PassReport {
    /// From admission to the last kernel.
    pub seconds: f64,
    /// `seconds` without the time that the computing thread waited for weights.
    pub compute_seconds: f64,
    /// Time that the computing thread waited for weights.
    pub stall_seconds: f64,
    /// Bytes read from the source for weights that this pass was the first to use.
    pub disk_bytes: u64,
    /// Bytes put on the device for them.
    pub device_bytes: u64,
    /// What the plan predicted for `device_bytes`, without rows of tables.
    pub planned_bytes: u64,
    /// The plan's steady-state time of a pass, from the costs that earlier passes measured, if any.
    pub predicted_seconds: f64,
    /// The lower bound of any schedule, from the same costs.
    pub bound_seconds: f64,
    /// Every wait for weights.
    pub stalls: Vec<Stall>,
    /// What was evicted since the pass before.
    pub evictions: Vec<Eviction>,
}

/// Quantised weights that are decoded while they are read, before they go to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DecodedOnHost {
    /// How they are stored.
    pub encoding: String,
    /// How many tensors.
    pub tensors: usize,
    /// Bytes that they take after decoding.
    pub bytes: u64,
    /// What cannot take them encoded.
    pub why: String,
}

/// All passes of a model under a budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Backend and what it runs on.
    pub device: String,
    /// Compute dtype.
    pub dtype: String,
    /// The device budget in bytes.
    pub budget_bytes: u64,
    /// The most bytes of it ever held at once, according to the ledger.
    pub peak_bytes: u64,
    /// Weights that stay on the device, in bytes.
    pub resident_bytes: u64,
    /// The ring in bytes.
    pub ring_bytes: u64,
    /// All weights of the model as they are kept, in bytes.
    pub weights_bytes: u64,
    /// Activations and scratch in bytes.
    pub workspace_bytes: u64,
    /// Quantised weights that are not kept in their blocks, because something cannot decode them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decoded_on_host: Vec<DecodedOnHost>,
    /// All passes together.
    pub total: Totals,
    /// The last passes, in order: [`Report::PASSES`] of them, or fewer if they have very many waits to list.
    pub passes: Vec<PassReport>,
}

impl Report {
    /// How many passes a report describes one by one.
    pub const PASSES: usize = 64;
}

/// Sums over all passes since the model was put under management.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// How many passes there were.
    pub passes: u64,
    /// From admission to the last kernel.
    pub seconds: f64,
    /// `seconds` without the time that the computing thread waited for weights.
    pub compute_seconds: f64,
    /// Time that the computing thread waited for weights.
    pub stall_seconds: f64,
    /// Bytes read from the source for weights.
    pub disk_bytes: u64,
    /// Bytes put on the device for them.
    pub device_bytes: u64,
    /// What plans predicted for `device_bytes`, without rows of tables.
    pub planned_bytes: u64,
    /// How often a unit was evicted.
    pub evictions: u64,
    /// Bytes that these units held.
    pub evicted_bytes: u64,
}

impl Totals {
    fn add(&mut self, pass: &PassReport) {
        self.passes += 1;
        self.seconds += pass.seconds;
        self.compute_seconds += pass.compute_seconds;
        self.stall_seconds += pass.stall_seconds;
        self.disk_bytes += pass.disk_bytes;
        self.device_bytes += pass.device_bytes;
        self.planned_bytes += pass.planned_bytes;
        self.evictions += pass.evictions.len() as u64;
        self.evicted_bytes += pass.evictions.iter().map(|e| e.bytes).sum::<u64>();
    }
}

/// Waits and evictions that the last passes may list together. A model of thousands of units waits thousands
/// of times in a pass.
const LISTED: usize = 1 << 14;

/// What is remembered of passes: the sums, and the details of the last ones.
#[derive(Debug, Default)]
pub(crate) struct History {
    total: Totals,
    recent: VecDeque<PassReport>,
}

impl History {
    pub(crate) fn push(&mut self, pass: PassReport) {
        self.total.add(&pass);
        self.recent.push_back(pass);
        let listed = |pass: &PassReport| pass.stalls.len() + pass.evictions.len();
        while self.recent.len() > Report::PASSES
            || self.recent.len() > 1 && self.recent.iter().map(listed).sum::<usize>() > LISTED
        {
            self.recent.pop_front();
        }
    }

    /// What a report contains.
    pub(crate) fn told(&self) -> (Totals, Vec<PassReport>) {
        (self.total.clone(), self.recent.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(number: u64, stalls: usize) -> PassReport {
        let stall = Stall { unit: "a".into(), cause: StallCause::Disk, seconds: 0.5 };
        let eviction = Eviction { unit: "b".into(), bytes: 10, reason: EvictionReason::Budget };
        PassReport {
            seconds: 1.0,
            stall_seconds: 0.25,
            disk_bytes: number,
            stalls: vec![stall; stalls],
            evictions: vec![eviction],
            ..PassReport::default()
        }
    }

    #[test]
    fn the_last_passes_are_kept_and_all_are_summed() {
        let mut history = History::default();
        (0..1000).for_each(|number| history.push(pass(number, 3)));
        let numbers: Vec<u64> = history.recent.iter().map(|p| p.disk_bytes).collect();
        assert_eq!(numbers, (1000 - Report::PASSES as u64..1000).collect::<Vec<_>>());
        let expected = Totals {
            passes: 1000,
            seconds: 1000.0,
            stall_seconds: 250.0,
            disk_bytes: 999 * 1000 / 2,
            evictions: 1000,
            evicted_bytes: 10_000,
            ..Totals::default()
        };
        assert_eq!(history.told().0, expected);
    }

    #[test]
    fn passes_that_list_much_are_fewer_and_never_none() {
        let mut history = History::default();
        (0..20).for_each(|number| history.push(pass(number, LISTED / 4)));
        assert_eq!(history.recent.len(), 3);
        history.push(pass(20, 2 * LISTED));
        assert_eq!(history.recent.len(), 1);
        assert_eq!(history.told().0.passes, 21);
    }
}
