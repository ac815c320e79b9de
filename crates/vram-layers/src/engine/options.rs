//! How an engine is set up and limited.

use std::sync::Arc;

use vram_device::{Budget, Tier, Topology};

use crate::observe::event::Observer;
use crate::plan::costs::Costs;

/// How an [`Engine`](crate::Engine) is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory of the device that weights, activations and scratch may take together.
    pub budget: Budget,
    /// Memory of the host for staging, and for weights that wait there, on devices with memory of their own.
    pub host_budget: Budget,
    /// Whether weights wait in host memory as far as that budget allows; of no effect where the device's memory is the
    /// host's.
    pub host_weights: bool,
    /// Bytes of the ring; the planner chooses if `None`.
    pub ring: Option<u64>,
    /// Threads that read. They wait for the disk most of the time. Fewer where the host budget would leave each of
    /// them a few sectors of staging.
    pub readers: usize,
    /// Whether units may stay on the device between passes (the `Preparing` state).
    pub residents: bool,
    /// What the first plan reckons with; assumed if `None`.
    pub costs: Option<Costs>,
    /// Whether the first passes are measured, and the plan is made anew where that would pay.
    pub calibrate: bool,
    /// Receives engine events.
    pub observer: Option<Arc<dyn Observer>>,
}

impl EngineOptions {
    /// Readers, unless it is said how many. Each has one read under way, and waits for a processor behind kernels before it asks
    /// for the next: with so many the disk has enough to do meanwhile.
    pub const READERS: usize = 8;

    /// Bytes of the largest single read, and about those of a reader's staging. Long enough for a disk's full speed beside kernels,
    /// short enough that several readers share one layer.
    pub const PIECE_BYTES: u64 = 2 << 20;

    /// Under a device budget, with 64 MiB for staging, eight readers, and the planner's own ring.
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
    /// So many bytes, others that share the budget included.
    Bytes(u64),
    /// All but so many bytes of what is free; asked of the device before each pass.
    LeaveFree(u64),
}

/// A device and its budgets, for a [`Plan`](crate::Plan) that nobody follows.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How the device's memory and queues relate to the host.
    pub topology: Topology,
    /// The device budget in bytes.
    pub budget: u64,
    /// The host budget in bytes.
    pub host_budget: u64,
    /// Of it, bytes that staging takes; of no account where the device's memory is the host's.
    pub staging: u64,
    /// Whether weights wait in host memory as far as the budget allows.
    pub host_weights: bool,
}
