//! Bugs that the simulated device found, each with its story.

use std::sync::Arc;

use vram_device::sim::{DiskFault, Fault, Lateness, SimSource};
use vram_device::{Budget, Tier};
use vram_layers::{Engine, EngineOptions, Error, LayerId, PassRequest, Split};
use vram_types::WeightSource;

use crate::common::{Random, Raw, in_time};
use crate::sim_common::{Held, Outputs, Rig, late};
use crate::source::{Layout, MemorySource};

pub fn rig(raw: Raw, lateness: Lateness, budget: u64, set: impl FnOnce(&mut EngineOptions)) -> Rig {
    let sim = Arc::new(late(lateness));
    let mut options = EngineOptions::new(Budget::new(Tier::Device, budget));
    (options.readers, options.calibrate) = (1, false);
    set(&mut options);
    let held =
        Held { sim: Arc::clone(&sim), budget: options.budget.clone(), host: options.host_budget.clone() };
    let from: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(&raw.source);
    let source = Arc::new(SimSource::new(from));
    let through: Arc<dyn WeightSource> = Arc::<SimSource>::clone(&source);
    let engine = Engine::new(through, sim, raw.specs(), options).unwrap();
    Rig { raw, engine, source, held: Arc::new(held), workspace: 4000 }
}

/// Activations give their memory back without a ticket, because all kernels run in one queue. Rows that are gathered, and
/// inputs, come by a copy: it was ordered after nothing, and overwrote what a kernel was still to read.
#[test]
fn gathered_rows_do_not_overwrite_what_kernels_still_read() {
    in_time("gathering", || {
        let raw = Raw::new(&[(10, 100, Split::Gather)], &Layout::plain(), 1);
        let rig = rig(raw, Lateness::Kernels, 4000, |_| {});
        let mut pass = rig.begin().unwrap();
        let mut outputs = Outputs::new(&rig.held.sim, 10_000).unwrap();
        let mut random = Random::new(1);
        for _ in 0..5 {
            rig.gather(&mut pass, 0, &mut random, &mut outputs).unwrap();
        }
        outputs.check(&rig.held.sim).unwrap();
        rig.held.check_order();
    });
}

/// A resident that found no memory lost its reservation; its next attempt took that of another resident, which then had
/// none in every pass to come.
#[test]
fn a_resident_that_found_no_memory_takes_none_from_another() {
    for allocation in 1..10 {
        in_time("out of memory", move || {
            let raw = Raw::new(&[(10, 100, Split::Whole), (10, 300, Split::Whole)], &Layout::plain(), 1);
            // To the byte: 1000 and 3000, each in multiples of 64, and the workspace.
            let rig = rig(raw, Lateness::Nothing, 4000 + 1000 + 3008, |_| {});
            rig.held.sim.set_faults(vec![Fault::OutOfMemory(allocation)]);
            let mut random = Random::new(2);
            let results: Vec<_> = (0..4).map(|_| rig.pass(&mut random)).collect();
            assert!(results.iter().filter(|r| r.is_err()).count() <= 1, "{allocation}: {results:?}");
        });
    }
}

/// The pieces of a resident that could not be read stayed in the queue when one of them failed, and with them its
/// memory, for which the next attempt found no room.
#[test]
fn what_is_left_of_a_failed_load_keeps_no_memory() {
    for seed in 0..60 {
        in_time("a failed piece", move || failed_piece(seed));
    }
}

/// A read of one of several pieces fails, once.
pub fn failed_piece(seed: u64) {
    let layout = Layout { indirect: 8, ..Layout::plain() };
    let raw = Raw::new(&[(40, 100, Split::Whole); 4], &layout, seed);
    let rig = rig(raw, Lateness::Nothing, 4000 + 4 * 4096, |options| {
        options.readers = 2;
        // Staging for pieces of 400 bytes.
        options.host_budget = Budget::new(Tier::Host, 1700);
    });
    rig.source.set_faults(vec![(1 + seed % 20, DiskFault::Error { retryable: true })]);
    let mut random = Random::new(seed);
    let results: Vec<_> = (0..4).map(|_| rig.pass(&mut random)).collect();
    assert!(results.iter().filter(|r| r.is_err()).count() <= 1, "{seed}: {results:?}");
}

/// A lease that had its weights and could not order the kernels after their copy, because the device was lost, kept them
/// for ever: later passes said that the budget was too small, and not that the device was lost.
#[test]
fn a_device_lost_at_a_lease_leaves_nothing_behind() {
    in_time("a lost device", || {
        let raw = Raw::new(&[(10, 100, Split::Whole)], &Layout::plain(), 1);
        let rig = rig(raw, Lateness::Copies, 4000 + 1000, |_| {});
        rig.pass(&mut Random::new(3)).unwrap();
        let outputs = Outputs::new(&rig.held.sim, 1000).unwrap();
        let mut pass = rig.begin().unwrap();
        rig.held.sim.set_faults(vec![Fault::Lost(1)]);
        let is_lost = |e: &Error| e.to_string().contains("the device is lost");
        assert!(is_lost(&outputs.check(&rig.held.sim).unwrap_err()));
        assert!(is_lost(&pass.lease(LayerId(0), 0).unwrap_err()));
        drop(pass);
        for uses in 2..12 {
            // Another order of use makes another plan each time.
            let trace = Some(vec![LayerId(0); uses]);
            let request = PassRequest { workspace: 4000, trace, ..PassRequest::default() };
            let e = rig.engine.begin(request).unwrap_err();
            assert!(is_lost(&e), "{e}");
        }
        let held = Arc::clone(&rig.held);
        drop((rig, outputs));
        held.check_empty();
    });
}

/// A lease that was dropped after its model had been put away counted as memory of others, for ever: the plan that would
/// have let it go was refused because of it.
#[test]
fn a_lease_dropped_late_does_not_count_against_the_next_plan() {
    in_time("a late lease", || {
        let rig = rig(Raw::plain(1), Lateness::Copies, 4000 + 1024, |_| {});
        let mut pass = rig.begin().unwrap();
        let lease = pass.lease(LayerId(0), 0).unwrap();
        pass.finish().unwrap();
        rig.engine.offload().unwrap();
        drop(lease);
        rig.engine.onload().unwrap();
        rig.pass(&mut Random::new(4)).unwrap();
    });
}
