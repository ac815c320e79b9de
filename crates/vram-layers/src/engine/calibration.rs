//! Measured costs of passes.

use crate::plan::costs::{Costs, Link};

/// How many passes are measured.
const PASSES: u32 = 2;

/// What a pass measured of each layer: nanoseconds and uses.
#[derive(Debug)]
pub(super) struct Measured(Vec<(u64, u32)>);

impl Measured {
    pub(super) fn new(layers: usize) -> Measured {
        Measured(vec![(0, 0); layers])
    }

    /// Counts one use of a layer.
    pub(super) fn count(&mut self, layer: usize) {
        self.0[layer].1 += 1;
    }

    /// Adds the time of a layer's kernels.
    pub(super) fn add(&mut self, layer: usize, nanos: u64) {
        self.0[layer].0 += nanos;
    }
}

/// The costs that plans are based on, and how far they have been measured.
#[derive(Debug)]
pub(super) struct Calibration {
    costs: Costs,
    measured: u32,
    /// Seconds and bound of a pass of the plan in force, by measured costs; `None` to use the plan's own.
    forecast: Option<(f64, f64)>,
}

impl Calibration {
    pub(super) fn new(costs: Costs) -> Calibration {
        Calibration { costs, measured: 0, forecast: None }
    }

    pub(super) fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Whether there are still passes to measure.
    pub(super) fn is_due(&self) -> bool {
        self.measured < PASSES
    }

    /// Takes in what a pass measured. Returns whether the costs can be trusted now: the first pass meets cold
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

    /// Seconds and bound of a pass, in place of the plan's own.
    pub(super) fn forecast(&self) -> Option<(f64, f64)> {
        self.forecast
    }

    pub(super) fn set_forecast(&mut self, forecast: Option<(f64, f64)>) {
        self.forecast = forecast;
    }
}
