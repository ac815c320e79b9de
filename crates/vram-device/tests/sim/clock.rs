//! Virtual time is what the profile says, and the same for the same calls.

use std::time::Duration;

use vram_device::sim::{Lateness, OpKind, Operation, SimOptions, SimTopology};
use vram_device::{Device, Queue};

use crate::util::{copy, download, latenesses, region, sim_with, slow, staging, upload};

/// Start and end in nanoseconds.
fn times(operations: &[Operation]) -> Vec<(Queue, u128, u128)> {
    operations.iter().map(|o| (o.queue, o.start.as_nanos(), o.end.as_nanos())).collect()
}

/// Two copies of 400 bytes, each with a kernel of 1000 ns behind it, then a download of 400 bytes.
fn run(options: SimOptions) -> (Vec<Operation>, Duration, Duration) {
    let sim = sim_with(options);
    let mut last = None;
    for value in [1, 2] {
        let (from, copied) = upload(&sim, &staging(&sim, &[value; 400]), region(&sim, 400));
        sim.order(Queue::Compute, copied).unwrap();
        let mut to = region(&sim, 400);
        copy(&sim, &from, &mut to);
        last = Some(to);
    }
    assert_eq!(sim.now(), Duration::ZERO);
    assert_eq!(download(&sim, last.as_ref().unwrap()), [2; 400]);
    (sim.operations(), sim.elapsed(), sim.now())
}

#[test]
fn copies_run_beside_kernels_or_between_them() {
    for lateness in latenesses() {
        let options = |topology| SimOptions { profile: slow(), topology, lateness, ..SimOptions::default() };
        let (operations, elapsed, now) = run(options(SimTopology::SeparateCopyQueue));
        let (up, run_) = (Queue::Copy, Queue::Compute);
        let expected =
            [(up, 0, 500), (up, 500, 1000), (run_, 500, 1500), (run_, 1500, 2500), (run_, 2500, 3000)];
        assert_eq!(times(&operations), expected);
        assert_eq!((elapsed, now), (Duration::from_nanos(3000), Duration::from_nanos(3000)));
        assert_eq!(operations[2].kind, OpKind::Kernel("copy"));
        assert_eq!((operations[0].bytes, operations[2].bytes, operations[4].bytes), (400, 800, 400));

        let (operations, elapsed, _) = run(options(SimTopology::OneQueue));
        let expected =
            [(up, 0, 500), (up, 1500, 2000), (run_, 500, 1500), (run_, 2000, 3000), (run_, 3000, 3500)];
        assert_eq!(times(&operations), expected);
        assert_eq!(elapsed, Duration::from_nanos(3500));
    }
}

/// What runs late changes nothing of the trace, and neither do threads that take turns at the same calls.
#[test]
fn the_same_calls_give_the_same_trace() {
    let options = |lateness| SimOptions { profile: slow(), lateness, ..SimOptions::default() };
    let (expected, ..) = run(options(Lateness::Nothing));
    for lateness in latenesses() {
        for _ in 0..3 {
            let traced = std::thread::spawn(move || run(options(lateness)).0);
            assert_eq!(traced.join().unwrap(), expected, "{lateness:?}");
        }
    }
}

#[test]
fn a_thread_that_is_late_issues_late() {
    let sim = sim_with(SimOptions { profile: slow(), ..SimOptions::default() });
    sim.advance_to(Duration::from_nanos(700));
    sim.advance_to(Duration::from_nanos(300));
    let (_region, copied) = upload(&sim, &staging(&sim, &[1; 100]), region(&sim, 100));
    assert_eq!(times(&sim.operations()), [(Queue::Copy, 700, 900)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(sim.now(), Duration::ZERO);
            sim.wait(copied).unwrap();
            assert_eq!(sim.now(), Duration::from_nanos(900));
        });
    });
    assert_eq!(sim.now(), Duration::from_nanos(700));
}

#[test]
fn speeds_are_positive_numbers() {
    for speed in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let mut profile = slow();
        profile.flops_per_second = speed;
        let options = SimOptions { profile, ..SimOptions::default() };
        let e = vram_device::sim::Sim::new(options).unwrap_err().to_string();
        assert!(e.contains("flops_per_second"), "{e}");
    }
}
