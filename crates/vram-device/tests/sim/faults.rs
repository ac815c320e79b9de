//! Faults come where they were declared, end in typed errors, and leave nothing behind.

use vram_device::sim::{Fault, SimOptions, SimTopology};
use vram_device::{Budget, Device, DeviceError, Lifetime, Queue, Tier};

use crate::util::{copy, download, latenesses, region, sim, sim_with, slow, staging, upload};

#[test]
fn memory_ends_at_its_capacity_and_comes_back() {
    for lateness in latenesses() {
        let sim = sim_with(SimOptions { profile: slow(), lateness, ..SimOptions::default() });
        let budget = Budget::new(Tier::Device, u64::MAX);
        let allocate = |bytes| sim.allocate(budget.reserve(Lifetime::Weights, bytes).unwrap());
        let whole = allocate(10_000).unwrap();
        assert_eq!(sim.memory().unwrap().free, 0);
        assert!(allocate(1).unwrap_err().is_oom());
        drop(whole);
        let (from, copied) = upload(&sim, &staging(&sim, &[1; 5000]), region(&sim, 5000));
        sim.order(Queue::Compute, copied).unwrap();
        let mut to = region(&sim, 5000);
        copy(&sim, &from, &mut to);
        drop((from, to));
        // What uses them is forced, and then they are free.
        let whole = allocate(10_000).unwrap().into_region();
        assert_eq!(download(&sim, &whole), vec![0xff; 10_000], "unwritten memory is poison");
        drop(whole);
        assert!(sim.usage().is_empty());
        assert_eq!((sim.memory().unwrap().free, budget.used()), (10_000, 0));
        assert_eq!(sim.violations(), []);
    }
}

#[test]
fn declared_faults_come_once_and_in_their_place() {
    let sim = sim_with(SimOptions {
        faults: vec![Fault::OutOfMemory(2), Fault::Upload(2)],
        ..SimOptions::default()
    });
    let budget = Budget::new(Tier::Device, 100);
    let first = sim.stage(budget.reserve(Lifetime::Pass, 10).unwrap()).unwrap();
    let e = sim.allocate(budget.reserve(Lifetime::Weights, 10).unwrap()).unwrap_err();
    assert!(e.is_oom(), "{e}");
    assert_eq!(budget.used(), 10, "what was not allocated is not held");
    let mut part = region(&sim, 10).into_parts(&[]).unwrap().remove(0);
    let mut go = || sim.upload(&first, 0..10, &mut part, 0);
    go().unwrap();
    assert!(matches!(go(), Err(DeviceError::Failed { .. })));
    sim.wait(go().unwrap()).unwrap();
}

#[test]
fn a_lost_device_says_so_and_never_hangs() {
    for lateness in latenesses() {
        let sim = sim(lateness, SimTopology::SeparateCopyQueue);
        let mut staged = staging(&sim, &[1; 8]);
        let (from, copied) = upload(&sim, &staged, region(&sim, 8));
        sim.order(Queue::Compute, copied).unwrap();
        let mut to = region(&sim, 8);
        copy(&sim, &from, &mut to);
        sim.set_faults(vec![Fault::Lost(1)]);
        let lost = |what: &str, result: Result<(), DeviceError>| {
            assert!(matches!(result, Err(DeviceError::Lost { .. })), "{what}: {result:?}");
        };
        lost("download", sim.download(&to, 0, &mut [0; 8]));
        lost("wait", sim.wait(copied));
        lost("is_done", sim.is_done(copied).map(drop));
        lost("order", sim.order(Queue::Copy, copied));
        lost("ticket", sim.ticket(Queue::Compute).map(drop));
        let budget = Budget::new(Tier::Device, u64::MAX);
        lost("allocate", sim.allocate(budget.reserve(Lifetime::Pass, 1).unwrap()).map(drop));
        lost("stage", sim.stage(budget.reserve(Lifetime::Pass, 1).unwrap()).map(drop));
        let mut part = to.into_parts(&[]).unwrap().remove(0);
        lost("upload", sim.upload(&staged, 0..8, &mut part, 0).map(drop));
        staged.host_mut().fill(2);
        drop((from, part, staged));
        assert!(sim.usage().is_empty());
        assert_eq!((sim.memory().unwrap().free, budget.used()), (8 << 30, 0));
    }
}
