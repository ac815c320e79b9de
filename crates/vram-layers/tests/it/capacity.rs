//! A plan stays in force while it will do, and grows in steps.

use std::sync::Arc;

use vram_device::{Lifetime, Reservation};
use vram_layers::{Engine, Error, LayerId, PassRequest, Plan, VramLimit};

use crate::common::{Raw, in_time, options};

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

fn pass(raw: &Raw, engine: &Engine, workspace: u64) -> Arc<Plan> {
    let mut pass = engine.begin(PassRequest { workspace, ..PassRequest::default() }).unwrap();
    let own = pass.alloc(workspace).unwrap();
    for layer in ALL {
        raw.check(&mut pass, layer).unwrap();
    }
    drop(own);
    pass.finish().unwrap();
    let budget = engine.budget();
    assert!(budget.used() <= budget.limit());
    assert!(budget.usage().pass >= workspace);
    engine.plan()
}

fn same(a: &Arc<Plan>, b: &Arc<Plan>) -> bool {
    Arc::ptr_eq(a, b)
}

/// An activation that grows at every pass made a plan at every pass, which stops all reads.
#[test]
fn a_growing_workspace_makes_few_plans() {
    in_time("a growing workspace", || {
        for (budget, discrete) in [(20_000, false), (9000, false), (9000, true)] {
            let raw = Raw::plain(20);
            let mut options = options(budget, None, 2);
            options.calibrate = false;
            let engine = raw.engine(options, discrete);
            let mut plans = vec![pass(&raw, &engine, 1000)];
            for workspace in (1000..4000).step_by(20) {
                let plan = pass(&raw, &engine, workspace);
                if !same(&plan, &plans[plans.len() - 1]) {
                    plans.push(plan);
                }
            }
            println!("{budget}: {:?}", plans.iter().map(|p| p.workspace_bytes).collect::<Vec<_>>());
            // 1.125^12 is 4.1.
            assert!(plans.len() <= 13, "{} plans", plans.len());
            // Nothing is evicted only to have room for later.
            let stays = |p: &Plan| p.resident_bytes + p.ring_bytes;
            let last = &plans[plans.len() - 1];
            assert!(last.workspace_bytes <= 4000 * 9 / 8 + 256);
            assert!(stays(last) >= 8000.min(budget - last.workspace_bytes) - 1000, "{last:?}");
            // What is smaller again needs no other.
            for workspace in [4, 3000, 0] {
                assert!(same(&pass(&raw, &engine, workspace), last));
            }
        }
    });
}

/// A model that just fits is not made to stream for the sake of room that no pass has asked for.
#[test]
fn a_step_costs_no_more_than_itself() {
    in_time("a step", || {
        let raw = Raw::plain(21);
        let mut options = options(8000 + 2000, None, 2);
        options.calibrate = false;
        let engine = raw.engine(options, false);
        for workspace in [1000, 1500, 1900, 2000] {
            let plan = pass(&raw, &engine, workspace);
            assert_eq!((plan.resident_bytes, plan.ring_bytes), (8000, 0));
            assert!((workspace..=2000).contains(&plan.workspace_bytes));
        }
        assert!(pass(&raw, &engine, 2001).ring_bytes > 0);
    });
}

#[test]
fn a_plan_stays_while_what_it_holds_may_be_held() {
    in_time("budgets that change", || {
        for discrete in [false, true] {
            let raw = Raw::plain(22);
            // A ring of its own size leaves something of the budget.
            let mut options = options(7000, Some(2000), 2);
            options.calibrate = false;
            let engine = raw.engine(options, discrete);
            let budget = engine.budget().clone();
            let first = pass(&raw, &engine, 500);
            assert!(first.ring_bytes > 0 && first.peak_bytes < 6999);

            // As much as it takes is enough.
            budget.set_limit(first.peak_bytes);
            assert!(same(&pass(&raw, &engine, 500), &first));
            // More than before and less than it was made for.
            budget.set_limit(6999);
            assert!(same(&pass(&raw, &engine, 500), &first));

            // Less than it takes is not.
            engine.set_limit(VramLimit::Bytes(first.peak_bytes - 1)).unwrap();
            assert!(budget.used() < first.peak_bytes, "at once");
            let second = pass(&raw, &engine, 500);
            assert!(!same(&second, &first) && second.peak_bytes < first.peak_bytes);

            // A limit that is raised is used.
            engine.set_limit(VramLimit::Bytes(8000)).unwrap();
            let third = pass(&raw, &engine, 500);
            assert!(third.peak_bytes > second.peak_bytes);

            // Others that share the budget take what is left, and leave it: nobody has asked for more.
            let left: Reservation = budget.reserve(Lifetime::Pass, 8000 - budget.used()).unwrap();
            assert!(same(&pass(&raw, &engine, 500), &third));
            drop(left);
            assert!(same(&pass(&raw, &engine, 500), &third));

            // All of it stays: there is nothing that more would be good for.
            engine.set_limit(VramLimit::Bytes(20_000)).unwrap();
            let all = pass(&raw, &engine, 500);
            assert_eq!(all.ring_bytes, 0);
            engine.set_limit(VramLimit::Bytes(30_000)).unwrap();
            assert!(same(&pass(&raw, &engine, 500), &all));
        }
    });
}

#[test]
fn another_order_makes_another_plan() {
    let raw = Raw::plain(23);
    let engine = raw.engine(options(4000, None, 1), false);
    let begin = |trace: &[usize]| {
        let trace = Some(trace.iter().copied().map(LayerId).collect());
        drop(engine.begin(PassRequest { trace, ..PassRequest::default() }).unwrap());
        engine.plan()
    };
    let first = begin(&ALL);
    assert!(same(&begin(&ALL), &first));
    let second = begin(&[0, 2, 4]);
    assert!(!same(&second, &first) && same(&begin(&[0, 2, 4]), &second));
    assert!(!same(&begin(&ALL), &second));
}

/// The plan in force is still there after a pass was refused.
#[test]
fn a_refused_pass_changes_nothing() {
    let raw = Raw::plain(24);
    let mut options = options(5000, None, 2);
    options.calibrate = false;
    let engine = raw.engine(options, false);
    let first = pass(&raw, &engine, 500);
    let refused = engine.begin(PassRequest { workspace: 4500, ..PassRequest::default() });
    assert!(matches!(refused.map(drop), Err(Error::BudgetTooSmall { needed: 5500, .. })));
    assert!(same(&engine.plan(), &first) && same(&pass(&raw, &engine, 500), &first));
}
