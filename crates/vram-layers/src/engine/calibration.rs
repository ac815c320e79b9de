//! What passes are measured to cost.

use crate::plan::costs::{Costs, Link};

/// Passes that are measured.
const PASSES: u32 = 2;

/// What a pass measured of the layers: nanoseconds and uses of each.
#[derive(Debug)]
pub(super) struct Measured(Vec<(u64, u32)>);

impl Measured {
    pub(super) fn new(layers: usize) -> Measured {
        Measured(vec![(0, 0); layers])
    }

    /// A layer is used.
    pub(super) fn count(&mut self, layer: usize) {
        self.0[layer].1 += 1;
    }

    /// A layer's kernels took so long.
    pub(super) fn add(&mut self, layer: usize, nanos: u64) {
        self.0[layer].0 += nanos;
    }
}

/// The costs that plans reckon with, and how far they are measured.
#[derive(Debug)]
pub(super) struct Calibration {
    costs: Costs,
    measured: u32,
    /// What a pass of the plan in force takes and its bound, in seconds, as measured costs have it;
    /// what the plan says itself if `None`.
    forecast: Option<(f64, f64)>,
}

impl Calibration {
    pub(super) fn new(costs: Costs) -> Calibration {
        Calibration { costs, measured: 0, forecast: None }
    }

    pub(super) fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Whether passes are still to be measured.
    pub(super) fn is_due(&self) -> bool {
        self.measured < PASSES
    }

    /// Takes in what a pass measured. Whether the costs are to be believed now: the first pass meets cold
    /// memory and a cold disk.
    pub(super) fn learn(&mut self, measured: &Measured, (disk, bus): (Option<Link>, Option<Link>)) -> bool {
        for (cost, (nanos, uses)) in self.costs.compute_seconds.iter_mut().zip(&measured.0) {
            if *uses > 0 {
                *cost = *nanos as f64 / 1e9 / f64::from(*uses);
            }
        }
        self.costs.disk = disk.unwrap_or(self.costs.disk);
        self.costs.bus = bus.unwrap_or(self.costs.bus);
        self.measured += 1;
        self.measured == PASSES
    }

    /// Seconds of a pass and its bound, in place of those that the plan says.
    pub(super) fn forecast(&self) -> Option<(f64, f64)> {
        self.forecast
    }

    pub(super) fn set_forecast(&mut self, forecast: Option<(f64, f64)>) {
        self.forecast = forecast;
    }
}
