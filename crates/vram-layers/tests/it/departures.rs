//! Passes that do not follow the trace, by the raw engine: slower, never wrong.

use proptest::prelude::*;
use vram_device::{Budget, Queue, Tier};
use vram_layers::{Error, LayerId, PassRequest, Split};

use crate::common::{Raw, bytes, in_time, options};
use crate::source::Layout;

#[derive(Clone, Debug)]
struct Walk {
    layers: Vec<(usize, usize, bool)>,
    budget: u64,
    ring: Option<u64>,
    readers: usize,
    discrete: bool,
    mapped: bool,
    /// For each pass: a trace to announce, and what is used.
    passes: Vec<(Option<Vec<usize>>, Vec<Use>)>,
}

/// A layer, and all of its tiles or one.
type Use = (usize, Option<usize>);

fn any_walk() -> impl Strategy<Value = Walk> {
    let layers = prop::collection::vec((1usize..50, 1usize..60, any::<bool>()), 1..8);
    let order = prop::collection::vec((0usize..8, prop::option::of(0usize..4)), 0..20);
    let trace = prop::option::of(prop::collection::vec(0usize..8, 0..10));
    let options = (4000u64..16_000, prop::option::of(0u64..9000), 1usize..4, any::<bool>(), any::<bool>());
    (layers, options, prop::collection::vec((trace, order), 1..5)).prop_map(
        |(layers, (budget, ring, readers, discrete, mapped), passes)| Walk {
            layers,
            budget,
            ring,
            readers,
            discrete,
            mapped,
            passes,
        },
    )
}

fn walk(case: &Walk) {
    let split = |rows: bool| if rows { Split::Rows } else { Split::Whole };
    let layers: Vec<_> = case.layers.iter().map(|&(rows, width, s)| (rows, width, split(s))).collect();
    let layout = Layout { alignment: 512, mapped: case.mapped, gaps: vec![0, 900], files: 2, indirect: 1 };
    let raw = Raw::new(&layers, &layout, case.budget);
    let options = options(case.budget, case.ring, case.readers);
    let budget = options.budget.clone();
    let engine = raw.engine(options, case.discrete);
    for (trace, order) in &case.passes {
        let inside = |l: &usize| LayerId(l % layers.len());
        // A given trace has all layers, in whatever order and however often.
        let trace = trace.as_ref().map(|t| t.iter().chain(&[0, 1, 2, 3, 4, 5, 6, 7]).map(inside).collect());
        let mut pass = engine.begin(PassRequest { trace, ..PassRequest::default() }).unwrap();
        for (layer, tile) in order {
            let layer = inside(layer);
            let Some(tile) = tile else {
                raw.check(&mut pass, layer.0).unwrap();
                continue;
            };
            let lease = pass.lease(layer, tile % pass.tiles(layer)).unwrap();
            let all = 0..layers[layer.0].0;
            let rows = lease.rows().unwrap_or(all);
            let width = layers[layer.0].1;
            assert!(bytes(&lease) == raw.layers[layer.0][rows.start * width..rows.end * width]);
            lease.finish(pass.device().ticket(Queue::Compute).unwrap());
        }
        pass.finish().unwrap();
    }
    assert!(budget.peak() <= budget.limit());
    drop(engine);
    assert_eq!(budget.used(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_order_gives_the_right_bytes(case in any_walk()) {
        in_time("a walk", move || walk(&case));
    }
}

/// A pass that used a few layers taught the engine a trace without the others, for which the next plan then left no room.
#[test]
fn layers_left_out_of_a_pass_come_back() {
    for (budget, residents) in [(20_000, true), (4500, true), (2000, false)] {
        in_time("coming back", move || {
            let raw = Raw::plain(12);
            let mut options = options(budget, None, 2);
            options.residents = residents;
            let engine = raw.engine(options, false);
            for order in [&[0, 1, 2, 3, 4, 5, 6, 7][..], &[5], &[5], &[5, 2], &[0, 1, 2, 3, 4, 5, 6, 7]] {
                raw.pass(&engine, order).unwrap();
            }
        });
    }
}

#[test]
fn reversed_repeated_and_skipped() {
    for discrete in [false, true] {
        in_time("orders", move || {
            let raw = Raw::plain(2);
            let engine = raw.engine(options(4500, Some(2100), 2), discrete);
            let orders: [&[usize]; 6] = [
                &[0, 1, 2, 3, 4, 5, 6, 7],
                &[7, 6, 5, 4, 3, 2, 1, 0],
                &[0, 0, 3, 3, 3, 7],
                &[5],
                &[],
                &[1, 0, 1, 0, 1, 2],
            ];
            for order in orders {
                raw.pass(&engine, order).unwrap();
                raw.pass(&engine, order).unwrap();
            }
        });
    }
}

#[test]
fn two_leases_at_once_where_the_ring_has_room() {
    for (ring, fits) in [(8 * 1024, true), (2 * 1024, true), (1100, false)] {
        for discrete in [false, true] {
            in_time("nested leases", move || {
                let raw = Raw::plain(6);
                let mut options = options(8 * 1024, Some(ring), 2);
                options.residents = false;
                let engine = raw.engine(options, discrete);
                for _ in 0..2 {
                    let mut pass = engine.begin(PassRequest::default()).unwrap();
                    for layer in 0..7 {
                        let first = pass.lease(LayerId(layer), 0).unwrap();
                        let second = match pass.lease(LayerId(layer + 1), 0) {
                            Ok(second) => second,
                            Err(Error::Unsupported(what)) if !fits => {
                                assert!(what.contains("finish them first"), "{what}");
                                first.finish(pass.device().ticket(Queue::Compute).unwrap());
                                continue;
                            }
                            Err(e) => panic!("ring {ring}: {e}"),
                        };
                        assert!(fits);
                        assert!(
                            bytes(&first) == raw.layers[layer] && bytes(&second) == raw.layers[layer + 1]
                        );
                        let ticket = pass.device().ticket(Queue::Compute).unwrap();
                        second.finish(ticket);
                        assert!(bytes(&first) == raw.layers[layer]);
                        first.finish(ticket);
                    }
                    drop(pass);
                    raw.pass(&engine, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
                }
            });
        }
    }
}

/// A layer out of the trace that found no room left a mark that kept the readers from going on, and the next lease
/// span for ever.
#[test]
fn a_refused_lease_does_not_stop_the_pass() {
    in_time("going on", || {
        let raw = Raw::plain(7);
        let mut options = options(1100, None, 1);
        options.residents = false;
        let engine = raw.engine(options, false);
        let trace = Some(vec![LayerId(0), LayerId(1)]);
        let mut pass = engine.begin(PassRequest { trace, ..PassRequest::default() }).unwrap();
        assert!(engine.plan().ring_bytes < 2000);
        let held = pass.lease(LayerId(0), 0).unwrap();
        assert!(matches!(pass.lease(LayerId(5), 0), Err(Error::Unsupported(_))));
        held.finish(pass.device().ticket(Queue::Compute).unwrap());
        raw.check(&mut pass, 1).unwrap();
        raw.check(&mut pass, 5).unwrap();
        raw.check(&mut pass, 0).unwrap();
        pass.finish().unwrap();
    });
}

#[test]
fn what_is_not_there_is_an_error() {
    let raw = Raw::plain(1);
    let engine = raw.engine(options(4000, None, 1), false);
    let bad = PassRequest { trace: Some(vec![LayerId(8)]), ..PassRequest::default() };
    assert!(matches!(engine.begin(bad), Err(Error::Shape(_))));
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    assert!(matches!(pass.lease(LayerId(8), 0), Err(Error::Shape(_))));
    assert!(matches!(pass.lease(LayerId(0), 1), Err(Error::Shape(_))));
    assert!(matches!(pass.gather(LayerId(9), 0, &[]), Err(Error::Shape(_))));
    assert!(matches!(pass.gather(LayerId(0), 0, &[10]), Err(Error::Shape(_))));
    assert!(pass.alloc(1).unwrap_err().is_oom());
    let lease = pass.lease(LayerId(0), 0).unwrap();
    assert!(matches!(lease.tensor(1), Err(Error::Shape(_))));
}

#[test]
fn offload_gives_everything_back_and_onload_takes_it_again() {
    for discrete in [false, true] {
        let raw = Raw::plain(3);
        let options = options(4500, None, 2);
        let budget = options.budget.clone();
        let engine = raw.engine(options, discrete);
        let all: Vec<usize> = (0..8).collect();
        for _ in 0..3 {
            raw.pass(&engine, &all).unwrap();
            assert!(budget.used() > 0);
            engine.offload().unwrap();
            assert_eq!(budget.used(), 0);
            assert!(matches!(engine.begin(PassRequest::default()), Err(Error::Offloaded)));
            engine.onload().unwrap();
            assert_eq!(budget.used(), 0);
        }
    }
}

#[test]
fn another_workspace_is_admitted_anew() {
    for discrete in [false, true] {
        let raw = Raw::plain(4);
        let options = options(10_000, None, 2);
        let budget = options.budget.clone();
        let engine = raw.engine(options, discrete);
        for workspace in [1, 1000, 6000, 8900, 300, 8976, 1] {
            let request = || PassRequest { workspace, ..PassRequest::default() };
            for _ in 0..2 {
                let mut pass = engine.begin(request()).unwrap();
                let own = pass.alloc(workspace);
                for layer in 0..8 {
                    raw.check(&mut pass, layer).unwrap();
                }
                drop(own.unwrap());
                pass.finish().unwrap();
            }
            assert!(budget.used() <= 10_000 && budget.usage().pass >= workspace);
        }
        let request = PassRequest { workspace: 9001, ..PassRequest::default() };
        match engine.begin(request).map(drop) {
            Err(Error::BudgetTooSmall { needed, given, workspace, weights, .. }) => {
                assert_eq!((needed, given, workspace, weights), (10_001, 10_000, 9001, 1000));
            }
            other => panic!("{other:?}"),
        }
        raw.pass(&engine, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        assert!(budget.peak() <= 10_000);
    }
}

#[test]
fn two_engines_share_a_budget() {
    in_time("sharing", || {
        let (a, b) = (Raw::plain(10), Raw::plain(11));
        let budget = Budget::new(Tier::Device, 12_000);
        let mut options = options(0, None, 2);
        options.budget = budget.clone();
        let (first, second) = (a.engine(options.clone(), false), b.engine(options, false));
        let all: Vec<usize> = (0..8).collect();
        for _ in 0..3 {
            a.pass(&first, &all).unwrap();
            // What the first left is enough for the second, until it is not; then the first has to go.
            if let Err(e) = b.pass(&second, &all) {
                assert!(e.is_oom(), "{e}");
                first.offload().unwrap();
                b.pass(&second, &all).unwrap();
                second.offload().unwrap();
                first.onload().unwrap();
                second.onload().unwrap();
            }
        }
        assert!(budget.peak() <= 12_000);
        drop((first, second));
        assert_eq!(budget.used(), 0);
    });
}
