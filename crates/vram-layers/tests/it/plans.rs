//! Plans are proved by a checker that knows nothing of the planner, and the checker is shown to see.

use vram_device::{Execution, Memory, Topology};
use vram_layers::schedule::Residency;
use vram_layers::{Costs, Error, LayerId, Link, Plan, Setting, Split, Violation, check};

use crate::common::{Random, Raw, options};
use crate::source::Layout;

/// A random model with several settings and traces: plans that were made, and how many were refused.
fn plans(seed: u64, settings: usize) -> (Vec<Plan>, usize) {
    let mut random = Random::new(seed);
    let layers: Vec<(usize, usize, Split)> = (0..2 + random.below(10))
        .map(|_| {
            let split = if random.below(3) == 0 { Split::Whole } else { Split::Rows };
            (1 + random.below(120), 1 + random.below(60), split)
        })
        .collect();
    let layout = Layout {
        alignment: [1, 512, 4096][random.below(3)],
        gaps: vec![0, 3, 700, 5000],
        files: 1 + random.below(2),
        indirect: [0, 0, 4][random.below(3)],
        mapped: false,
    };
    let raw = Raw::new(&layers, &layout, seed);
    let engine = raw.engine(options(0, (random.below(4) == 0).then(|| random.next() % 40_000), 1), false);
    let (mut made, mut refused) = (Vec::new(), 0);
    for _ in 0..settings {
        let trace: Vec<LayerId> = match random.below(3) {
            0 => (0..layers.len()).map(LayerId).collect(),
            _ => (0..1 + random.below(20)).map(|_| LayerId(random.below(layers.len()))).collect(),
        };
        let all = engine.weights_bytes();
        let setting = Setting {
            topology: Topology {
                memory: if random.below(2) == 0 { Memory::Shared } else { Memory::Discrete },
                kernels: Execution::Queued,
                separate_copy_queue: random.below(2) == 0,
            },
            budget: 2000 + random.next() % (all * 3 / 2 + 4000),
            host_budget: 20_000 + random.next() % (2 * all),
            staging: 10_000,
            host_weights: random.below(2) == 0,
        };
        let link = |random: &mut Random| Link {
            bytes_per_second: 1e6 * (1 + random.below(1000)) as f64,
            latency_seconds: random.below(100) as f64 * 1e-6,
        };
        let costs = Costs {
            disk: link(&mut random),
            bus: link(&mut random),
            compute_seconds: (0..layers.len()).map(|_| random.below(1000) as f64 * 1e-6).collect(),
            unit_seconds: 1e-6,
        };
        let workspace = random.next() % 1500;
        match engine.plan_for(&setting, &costs, workspace, &trace) {
            Ok(plan) => {
                let least = plan.smallest_budget_bytes;
                let with =
                    |budget| engine.plan_for(&Setting { budget, ..setting }, &costs, workspace, &trace);
                assert!(least <= plan.peak_bytes, "seed {seed}: {plan:#?}");
                if made.is_empty() {
                    assert_eq!(with(least).unwrap().smallest_budget_bytes, least, "seed {seed}");
                    let refused = with(least - 1).unwrap_err();
                    assert!(matches!(refused, Error::BudgetTooSmall { needed, .. } if needed == least));
                }
                made.push(plan);
            }
            Err(Error::BudgetTooSmall { needed, given, .. }) => {
                assert!(needed > given);
                refused += 1;
            }
            Err(e) => panic!("seed {seed}: {e}"),
        }
    }
    (made, refused)
}

#[test]
fn ten_thousand_random_plans_pass_the_checker() {
    let (mut made, mut refused, mut streamed, mut fetches, mut on_host) = (0, 0, 0, 0, 0);
    let mut seed = 0;
    while made < 10_000 {
        let (plans, too_small) = plans(seed, 20);
        refused += too_small;
        for plan in plans {
            check(&plan).unwrap_or_else(|e| panic!("seed {seed}: {e}: {plan:#?}"));
            assert!(plan.pass_seconds >= plan.bound_seconds * 0.999, "seed {seed}: {plan:#?}");
            let text = serde_json::to_string(&plan).unwrap();
            let again: Plan = serde_json::from_str(&text).unwrap();
            assert_eq!(check(&again), Ok(()), "seed {seed}: after a file");
            made += 1;
            streamed += usize::from(plan.ring_bytes > 0);
            on_host += usize::from(plan.host_bytes > 0);
            fetches += plan.fetches.len();
        }
        seed += 1;
    }
    println!(
        "{made} plans from {seed} seeds ({refused} more refused), {streamed} of them stream, {on_host} keep units on the host, {fetches} fetches"
    );
    assert!(streamed > made / 3 && on_host > made / 50);
}

/// Every way to make a plan wrong that the checker is there for.
#[test]
fn a_wrong_plan_is_caught() {
    let mut tried = [0; 12];
    for seed in 0..400 {
        for plan in plans(seed, 3).0 {
            if plan.fetches.is_empty() {
                continue;
            }
            let mut random = Random::new(seed);
            let at = random.below(plan.fetches.len());
            let caught = |wrong: Plan, what: &str| -> Violation {
                match check(&wrong) {
                    Err(violation) => violation,
                    Ok(()) => panic!("seed {seed}: {what} passes: {wrong:#?}"),
                }
            };
            let mut change = |n: usize, what: &str, f: &dyn Fn(&mut Plan)| {
                let mut wrong = plan.clone();
                f(&mut wrong);
                tried[n] += 1;
                caught(wrong, what)
            };
            let v = change(0, "a fetch left out", &|p| {
                p.fetches.remove(at);
            });
            assert!(matches!(v, Violation::NotLoaded { .. }), "{v}");
            let v = change(1, "a fetch too late", &|p| p.fetches[at].after = p.fetches[at].position + 1);
            assert!(matches!(v, Violation::NotLoaded { .. } | Violation::Unasked { .. }), "{v}");
            let v = change(2, "a fetch out of the ring", &|p| p.fetches[at].at = p.ring_bytes);
            assert!(matches!(v, Violation::OutsideRing { .. } | Violation::Overwrites { .. }), "{v}");
            let v = change(3, "a fetch of another unit", &|p| p.fetches[at].unit += 1);
            assert!(matches!(v, Violation::Unasked { .. } | Violation::UnknownUnit { .. }), "{v}");
            let v = change(4, "a resident that is none", &|p| {
                p.units[p.fetches[at].unit].kept = Residency::Device;
            });
            assert!(matches!(v, Violation::Miscounted { .. }), "{v}");
            change(5, "one byte more than the budget", &|p| {
                let more = p.budget_bytes - p.peak_bytes + 1;
                p.workspace_bytes += more;
                p.peak_bytes += more;
            });
            change(6, "a peak that is no sum", &|p| p.peak_bytes -= 1);
            change(7, "a host that holds more than it may", &|p| {
                let more = p.host_budget_bytes - p.host_peak_bytes + 1;
                p.staging_bytes += more;
                p.host_peak_bytes += more;
            });
            change(8, "a trace of a unit that is not", &|p| {
                p.trace[0] = p.units.len();
            });
            // More goes through the ring than it holds: if nothing waits for room, something is overwritten.
            let through: u64 = plan.fetches.iter().map(|f| plan.units[f.unit].bytes).sum();
            if through > plan.ring_bytes {
                let v = change(9, "no fetch waiting for room", &|p| {
                    p.fetches.iter_mut().for_each(|f| f.after = 0);
                });
                assert!(matches!(v, Violation::Overwrites { .. }), "{v}");
            }
            if let Some(pair) = plan.fetches.windows(2).position(|w| {
                let live = |f: &vram_layers::schedule::Fetch| f.after <= w[0].position;
                live(&w[1]) && plan.units[w[0].unit].bytes > 0 && plan.units[w[1].unit].bytes > 0
            }) {
                let v =
                    change(10, "two fetches in one place", &|p| p.fetches[pair + 1].at = p.fetches[pair].at);
                assert!(matches!(v, Violation::Overwrites { .. } | Violation::OutsideRing { .. }), "{v}");
            }
            change(11, "a fetch twice", &|p| {
                let twice = p.fetches[at];
                p.fetches.insert(at, twice);
            });
        }
    }
    println!("wrong plans by kind: {tried:?}");
    assert!(tried.iter().all(|n| *n > 100), "{tried:?}");
}

/// A file can say anything: the checker neither overflows nor runs for ever, and does not take silence for a proof.
#[test]
fn numbers_from_a_file_are_only_numbers() {
    let raw = Raw::plain(3);
    let engine = raw.engine(options(0, None, 1), false);
    let topology =
        Topology { memory: Memory::Shared, kernels: Execution::Inline, separate_copy_queue: false };
    let trace: Vec<LayerId> = (0..8).map(LayerId).collect();
    let plan = |budget| {
        let setting = Setting { topology, budget, host_budget: 0, staging: 0, host_weights: false };
        engine.plan_for(&setting, &Costs::assumed([1000; 8]), 0, &trace).unwrap()
    };
    let (streams, stays) = (plan(4500), plan(1 << 20));
    assert!(streams.ring_bytes > 0 && stays.ring_bytes == 0);
    let change = |plan: &Plan, f: &dyn Fn(&mut Plan)| {
        let mut plan = plan.clone();
        f(&mut plan);
        check(&plan)
    };
    assert_eq!(change(&streams, &|p| p.passes = 0), Err(Violation::NothingListed));
    assert_eq!(change(&stays, &|p| p.passes = 0), Ok(()), "there is nothing to list");
    assert_eq!(change(&stays, &|p| p.passes = u64::MAX), Ok(()));
    let v = change(&streams, &|p| p.passes = u64::MAX).unwrap_err();
    assert!(matches!(v, Violation::NotLoaded { .. }), "{v}");
    let v = change(&stays, &|p| p.units.iter_mut().for_each(|u| u.bytes = u64::MAX)).unwrap_err();
    assert!(matches!(v, Violation::Miscounted { what: "residents", counted: u64::MAX, .. }), "{v}");
    let v = change(&streams, &|p| p.fetches[0].at = u64::MAX).unwrap_err();
    assert!(matches!(v, Violation::OutsideRing { .. }), "{v}");
    let v = change(&stays, &|p| p.trace[0] = usize::MAX).unwrap_err();
    assert!(matches!(v, Violation::UnknownUnit { unit: usize::MAX }), "{v}");
}
