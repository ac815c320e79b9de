//! Options and limits of an engine.

use std::sync::Arc;

use vram_device::{Budget, Tier, Topology};

use crate::observe::event::Observer;
use crate::plan::costs::Costs;

/// Options of an [`Engine`](crate::Engine).
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Device memory that weights, activations and scratch may take in total.
    pub budget: Budget,
    /// Host memory for staging, and for weights that wait there, on devices with their own memory.
    pub host_budget: Budget,
    /// Whether weights wait in host memory as far as that budget allows; no effect if the device shares the
    /// host's memory.
    pub host_weights: bool,
    /// Bytes of the ring; the planner chooses if `None`.
    pub ring: Option<u64>,
    /// Reader threads. They wait for the disk most of the time. Fewer are started if the host budget would
    /// leave each only a few sectors of staging.
    pub readers: usize,
    /// Whether units may stay on the device between passes (the `Preparing` state).
    pub residents: bool,
    /// The costs that the first plan is based on; assumed if `None`.
    pub costs: Option<Costs>,
    /// Whether the first passes are measured, and the plan is remade if that pays.
    pub calibrate: bool,
    /// Receives engine events.
    pub observer: Option<Arc<dyn Observer>>,
}

impl EngineOptions {
    /// Default number of readers. Each has one read in flight, and after it waits for a processor behind
    /// kernels before it issues the next: this many keep the disk busy meanwhile.
    pub const READERS: usize = 8;

    /// Size of the largest single read in bytes, and roughly of a reader's staging. Long enough for a disk's
    /// full speed beside kernels, short enough that several readers share one layer.
    pub const PIECE_BYTES: u64 = 2 << 20;

    /// A device budget, with 64 MiB for staging, eight readers, and a ring sized by the planner.
    pub fn new(budget: Budget) -> EngineOptions {
        EngineOptions {
            budget,
            host_budget: Budget::new(Tier::Host, 64 << 20),
            host_weights: false,
            ring: None,
            readers: EngineOptions::READERS,
            residents: true,
            costs: None,
            calibrate: true,
            observer: None,
        }
    }
}

/// How much of the device's memory an engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VramLimit {
    /// This many bytes, including what others that share the budget hold.
    Bytes(u64),
    /// All free memory except this many bytes; the device is asked before each pass.
    LeaveFree(u64),
}

/// A device and its budgets, for a [`Plan`](crate::Plan) that is not run.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How the device's memory and queues relate to the host.
    pub topology: Topology,
    /// The device budget in bytes.
    pub budget: u64,
    /// The host budget in bytes.
    pub host_budget: u64,
    /// Bytes of it that staging takes; ignored if the device shares the host's memory.
    pub staging: u64,
    /// Whether weights wait in host memory as far as the budget allows.
    pub host_weights: bool,
}
