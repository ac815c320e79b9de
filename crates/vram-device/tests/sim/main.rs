//! The simulated device: it passes the suite however late it is, and finds every flaw that is planted here.

#![allow(clippy::unwrap_used)] // a test's failure is a panic
#![allow(unreachable_pub)] // modules of one test binary

mod clock;
mod faults;
mod order;
mod source;
mod util;

use util::{TOPOLOGIES, latenesses, sim};
use vram_device::conformance;

#[test]
fn every_lateness_and_topology_passes_the_suite() {
    for topology in TOPOLOGIES {
        for lateness in latenesses() {
            let sim = sim(lateness, topology);
            let summary = conformance::run(&sim).unwrap_or_else(|e| panic!("{sim:?}: {e}"));
            assert_eq!(summary.passed.len(), conformance::cases().len());
            sim.run_all();
            assert_eq!(sim.violations(), []);
            assert!(sim.usage().is_empty(), "{:?}", sim.usage());
        }
    }
}
