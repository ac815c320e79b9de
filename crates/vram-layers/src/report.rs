//! What passes did.

use serde::Serialize;

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
