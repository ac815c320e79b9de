//! What passes did.

use serde::Serialize;

use crate::observe::{EvictionReason, StallCause};

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

/// A unit that stayed on the device and had to go.
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
    /// What the plan said these bytes would be, rows of tables apart.
    pub planned_bytes: u64,
    /// What the plan in force said a pass takes in the long run; with the costs that passes before it measured, if any.
    pub predicted_seconds: f64,
    /// What no schedule is faster than, likewise.
    pub bound_seconds: f64,
    /// Every wait for weights.
    pub stalls: Vec<Stall>,
    /// What had to leave the device since the pass before.
    pub evictions: Vec<Eviction>,
}

/// A model's passes under a budget.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Backend and what it runs on.
    pub device: String,
    /// Compute dtype.
    pub dtype: String,
    /// The device budget in bytes.
    pub budget_bytes: u64,
    /// The most bytes of it ever held at once, as the ledger has it.
    pub peak_bytes: u64,
    /// Weights that stay on the device, in bytes.
    pub resident_bytes: u64,
    /// The ring in bytes.
    pub ring_bytes: u64,
    /// All weights of the model, in bytes.
    pub weights_bytes: u64,
    /// Activations and scratch in bytes.
    pub workspace_bytes: u64,
    /// The passes, first to last.
    pub passes: Vec<PassReport>,
}
