//! Memory that outlives passes: it stays, it is counted, and weights make room for it.

use std::sync::Arc;

use proptest::prelude::*;
use vram_device::{Budget, Region, Tier};
use vram_layers::{
    Engine, Error, EvictionReason, PassReport, PassRequest, Pipeline, Session, Split, VramLimit,
};

use crate::common::{Random, Raw, in_time, options};
use crate::source::Layout;

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

fn engine(raw: &Raw, budget: u64, discrete: bool) -> Engine {
    let mut options = options(budget, None, 2);
    options.calibrate = false;
    raw.engine(options, discrete)
}

fn pass(raw: &Raw, engine: &Engine, workspace: u64) -> PassReport {
    let mut pass = engine.begin(PassRequest { workspace, ..PassRequest::default() }).unwrap();
    for layer in 0..raw.layers.len() {
        raw.check(&mut pass, layer).unwrap();
    }
    let report = pass.finish().unwrap();
    assert!(engine.budget().used() <= engine.budget().limit());
    report
}

/// A session that is full of bytes which nothing else has.
struct Filled {
    session: Session,
    region: Region,
    bytes: Vec<u8>,
}

impl Filled {
    fn new(engine: &Engine, bytes: u64, seed: u64) -> Result<Filled, Error> {
        let session = engine.session(bytes)?;
        assert_eq!(session.bytes(), bytes);
        let mut region = session.alloc(bytes)?;
        assert!(session.alloc(1).is_err_and(|e| e.is_oom()), "no more than was asked for");
        let bytes = Random::new(seed).bytes(bytes as usize);
        region.host_mut().unwrap().copy_from_slice(&bytes);
        Ok(Filled { session, region, bytes })
    }

    fn check(&self) {
        assert!(self.region.host().unwrap() == self.bytes, "a session's bytes have changed");
    }
}

#[test]
fn what_is_free_is_taken_without_another_plan_and_stays() {
    in_time("a session", || {
        for discrete in [false, true] {
            let raw = Raw::plain(30);
            let engine = engine(&raw, 12_000, discrete);
            let before = Filled::new(&engine, 500, 1).unwrap();
            pass(&raw, &engine, 1000);
            let plan = engine.plan();
            assert_eq!((plan.session_bytes, plan.peak_bytes), (500, 8000 + 1000 + 500));
            let during = {
                let pass = engine.begin(PassRequest { workspace: 1000, ..PassRequest::default() }).unwrap();
                let during = Filled::new(&engine, 700, 2).unwrap();
                assert!(matches!(engine.session(10_000), Err(Error::Busy)));
                drop(pass);
                during
            };
            assert_eq!(pass(&raw, &engine, 1000).device_bytes, 0);
            assert!(Arc::ptr_eq(&engine.plan(), &plan));
            assert_eq!(engine.budget().usage().session, 1200);

            engine.offload().unwrap();
            assert_eq!(engine.budget().used(), 1200, "all but the sessions");
            engine.onload().unwrap();
            engine.set_limit(VramLimit::Bytes(5000)).unwrap();
            assert!(pass(&raw, &engine, 1000).device_bytes > 0);
            engine.set_limit(VramLimit::Bytes(12_000)).unwrap();
            pass(&raw, &engine, 1000);
            assert_eq!(pass(&raw, &engine, 1000).device_bytes, 0);
            let budget = engine.budget().clone();
            drop(engine);
            for filled in [&before, &during] {
                filled.check();
            }
            let Filled { session, region, .. } = before;
            drop((session, during));
            assert_eq!(budget.used(), 500, "a region keeps its session's memory");
            drop(region);
            assert_eq!(budget.used(), 0);
        }
    });
}

#[test]
fn residents_make_room_and_come_back() {
    in_time("a session in the room of weights", || {
        for discrete in [false, true] {
            let raw = Raw::plain(31);
            let engine = engine(&raw, 9000, discrete);
            pass(&raw, &engine, 1000);
            assert_eq!(pass(&raw, &engine, 1000).device_bytes, 0);
            let filled = Filled::new(&engine, 3000, 3).unwrap();
            assert!(engine.budget().used() <= 9000 && engine.budget().usage().session == 3000);
            let report = pass(&raw, &engine, 1000);
            assert!(!report.evictions.is_empty() && report.device_bytes > 0);
            assert!(report.evictions.iter().all(|e| e.reason == EvictionReason::Session));
            // What both plans keep was not read again.
            assert!(report.device_bytes < 8000, "{report:?}");
            filled.check();
            drop(filled);
            pass(&raw, &engine, 1000);
            assert_eq!(pass(&raw, &engine, 1000).device_bytes, 0, "the room is used again");
            assert!(engine.budget().peak() <= 9000);
        }
    });
}

#[test]
fn what_cannot_be_is_refused_with_what_could() {
    in_time("a session that is too large", || {
        for discrete in [false, true] {
            let raw = Raw::plain(32);
            let engine = engine(&raw, 9000, discrete);
            pass(&raw, &engine, 1000);
            let plan = engine.plan();
            let held = Filled::new(&engine, 100, 4).unwrap();
            let (largest, asked) = match engine.session(8000).map(drop) {
                Err(Error::BudgetTooSmall { needed, given, workspace, weights, session }) => {
                    assert_eq!((given, workspace, weights, session), (9000, 1000, 1000, 8100));
                    assert_eq!(needed, workspace + weights + session);
                    (given - workspace - weights - 100, 8000)
                }
                other => panic!("{other:?}"),
            };
            println!("{asked} bytes refused, {largest} would do");
            let after = engine.plan();
            assert!(!Arc::ptr_eq(&after, &plan), "it made room for the first");
            pass(&raw, &engine, 1000);
            assert!(Arc::ptr_eq(&engine.plan(), &after), "what was refused changes nothing");
            let refused = engine.session(largest + 1);
            assert!(matches!(refused.map(drop), Err(Error::BudgetTooSmall { .. })));
            let most = Filled::new(&engine, largest, 5).unwrap();
            assert_eq!(engine.plan().peak_bytes, 9000);
            pass(&raw, &engine, 1000);
            let larger = PassRequest { workspace: 1001, ..PassRequest::default() };
            let refused = engine.begin(larger).map(drop);
            assert!(
                matches!(refused, Err(Error::BudgetTooSmall { needed: 9001, session, .. }) if session == largest + 100)
            );
            assert_eq!(engine.minimum_budget(1000, &[]).unwrap(), 1000 + largest + 100);
            most.check();
            held.check();
        }
    });
}

#[test]
fn without_a_plan_only_the_budget_counts() {
    let raw = Raw::plain(33);
    let engine = engine(&raw, 9000, false);
    let refused = engine.session(9001).map(drop);
    assert!(
        matches!(refused, Err(Error::BudgetTooSmall { needed: 9001, given: 9000, session: 9001, .. })),
        "{refused:?}"
    );
    let all = engine.session(9000).unwrap();
    let refused = engine.begin(PassRequest::default()).map(drop);
    assert!(
        matches!(refused, Err(Error::BudgetTooSmall { needed: 10_000, given: 9000, session: 9000, .. })),
        "{refused:?}"
    );
    assert!(matches!(engine.session(u64::MAX).map(drop), Err(Error::BudgetTooSmall { .. })));
    drop(all);
    pass(&raw, &engine, 1000);
}

#[test]
fn other_models_of_a_pipeline_make_room() {
    in_time("a session of a pipeline", || {
        for discrete in [false, true] {
            let budget = Budget::new(Tier::Device, 12_000);
            let (a, b) = (Raw::plain(34), Raw::new(&[(10, 100, Split::Whole); 6], &Layout::plain(), 35));
            let pipeline = Pipeline::new(budget.clone());
            let join = |raw: &Raw, name| {
                let mut options = options(0, None, 2);
                (options.budget, options.calibrate) = (budget.clone(), false);
                let engine = Arc::new(raw.engine(options, discrete));
                pipeline.add(name, &engine).unwrap();
                engine
            };
            let (first, second) = (join(&a, "first"), join(&b, "second"));
            pass(&a, &first, 1000);
            // Before the first pass of its model, and after it.
            let mut held = vec![Filled::new(&second, 5000, 6).unwrap()];
            pass(&b, &second, 1000);
            held.push(Filled::new(&second, 4000, 7).unwrap());
            pass(&a, &first, 1000);
            pass(&b, &second, 1000);
            held.iter().for_each(Filled::check);
            assert!(budget.peak() <= 12_000 && budget.usage().session == 9000);
            drop(held);
            pass(&a, &first, 1000);
            drop((first, second));
            assert_eq!(budget.used(), 0);
        }
    });
}

/// What a random caller does.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Take(u64),
    GiveBack(usize),
    Limit(u64),
    PutAway,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..3000).prop_map(Step::Pass),
        3 => (1u64..5000).prop_map(Step::Take),
        2 => any::<usize>().prop_map(Step::GiveBack),
        1 => (2000u64..16_000).prop_map(Step::Limit),
        1 => Just(Step::PutAway),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sessions_and_passes_share_a_budget(
        discrete: bool,
        steps in prop::collection::vec(any_step(), 1..24),
    ) {
        let raw = Raw::plain(36);
        let engine = engine(&raw, 12_000, discrete);
        let budget = engine.budget().clone();
        let mut held: Vec<Filled> = Vec::new();
        for (i, step) in steps.into_iter().enumerate() {
            let sessions = |held: &[Filled]| held.iter().map(|f| f.bytes.len() as u64).sum::<u64>();
            match step {
                Step::Pass(workspace) => {
                    let needed = workspace + 1000 + sessions(&held);
                    let request = PassRequest { workspace, ..PassRequest::default() };
                    match engine.begin(request) {
                        Ok(mut pass) => {
                            prop_assert!(needed <= budget.limit());
                            for layer in ALL {
                                raw.check(&mut pass, layer).unwrap();
                            }
                            pass.finish().unwrap();
                        }
                        Err(Error::BudgetTooSmall { needed: n, .. }) => {
                            prop_assert!(n == needed && n > budget.limit());
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
                Step::Take(bytes) => match Filled::new(&engine, bytes, i as u64) {
                    Ok(filled) => held.push(filled),
                    Err(Error::BudgetTooSmall { needed, given, session, .. }) => {
                        prop_assert!(needed > given && given == budget.limit());
                        prop_assert_eq!(session, sessions(&held) + bytes);
                    }
                    Err(e) => panic!("{e}"),
                },
                Step::GiveBack(which) => {
                    if !held.is_empty() {
                        held.swap_remove(which % held.len());
                    }
                }
                Step::Limit(limit) => {
                    let limit = limit.max(sessions(&held));
                    engine.set_limit(VramLimit::Bytes(limit)).unwrap();
                }
                Step::PutAway => {
                    engine.offload().unwrap();
                    prop_assert_eq!(budget.used(), sessions(&held));
                    engine.onload().unwrap();
                }
            }
            held.iter().for_each(Filled::check);
            prop_assert!(budget.used() <= budget.limit());
            prop_assert_eq!(budget.usage().session, sessions(&held));
        }
        prop_assert!(budget.peak() <= 16_000);
        drop((engine, held));
        prop_assert_eq!(budget.used(), 0);
    }
}
