//! Where weights wait, what they are stored as, and budgets that change.

use std::sync::Arc;

use vram_device::{Budget, DeviceError, Queue, Tier};
use vram_layers::schedule::Residency;
use vram_layers::state::Placement;
use vram_layers::{
    Engine, EngineOptions, Error, EvictionReason, LayerId, LayerSpec, ModuleMap, PassReport, PassRequest,
    Split, StallCause, StorageDtypes, VramConfig, VramLimit, enable_vram_management,
};
use vram_types::{DType, WeightSource};

use crate::chain::{BlockCase, Chain, ModelCase, StepCase, decode};
use crate::common::{Raw, bytes, cpu, in_time, options};
use crate::source::{Layout, MemorySource};

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Eight layers of 1000 bytes under so many bytes of device and host.
fn kept_on_host(device: u64, host: u64) -> EngineOptions {
    let mut options = options(device, None, 2);
    options.host_budget = Budget::new(Tier::Host, host);
    options.host_weights = true;
    options.calibrate = false;
    options
}

fn pass(raw: &Raw, engine: &vram_layers::Engine) -> PassReport {
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    for layer in ALL {
        raw.check(&mut pass, layer).unwrap();
    }
    pass.finish().unwrap()
}

#[test]
fn what_waits_on_the_host_is_read_once() {
    in_time("a host tier", || {
        for host in [40_000, 26_000, 23_500] {
            let raw = Raw::plain(host);
            let options = kept_on_host(3500, host);
            let (device_budget, host_budget) = (options.budget.clone(), options.host_budget.clone());
            let engine = raw.engine(options, true);
            let first = pass(&raw, &engine);
            let plan = engine.plan();
            let bytes_of = |which: Residency| -> u64 {
                plan.units.iter().filter(|u| u.kept == which).map(|u| u.bytes).sum()
            };
            println!("host {host}: {} there, {} resident", plan.host_bytes, plan.resident_bytes);
            assert!(plan.host_bytes > 0);
            assert_eq!(first.disk_bytes, 8000);
            for _ in 0..3 {
                let next = pass(&raw, &engine);
                assert_eq!(
                    next.disk_bytes,
                    bytes_of(Residency::Source),
                    "what is in neither place is read again"
                );
                assert_eq!(next.device_bytes, 8000 - bytes_of(Residency::Device));
            }
            assert!(host_budget.peak() <= host && host_budget.used() >= plan.host_bytes);

            // Put away and called again, it is still on the host; forgotten, it is not.
            engine.offload().unwrap();
            assert_eq!(device_budget.used(), 0);
            engine.onload().unwrap();
            let again = pass(&raw, &engine);
            assert_eq!(again.disk_bytes, 8000 - plan.host_bytes);
            let staging = host_budget.used() - engine.plan().host_bytes;
            engine.forget_host().unwrap();
            assert_eq!((device_budget.used(), host_budget.used()), (0, staging));
            assert_eq!(pass(&raw, &engine).disk_bytes, 8000);
            drop(engine);
            assert_eq!((device_budget.used(), host_budget.used()), (0, 0));
        }
    });
}

/// A unit whose tensors are far apart comes in several reads. On its way into host memory each read was once given all of
/// the unit's memory, and a source that spoils the slack, as it may, spoilt what the read before had brought.
#[test]
fn reads_of_one_unit_into_host_memory_leave_each_other_alone() {
    in_time("a unit of several reads", || {
        let layout = Layout { gaps: vec![5000], ..Layout::plain() };
        let raw = Raw::new(&[(10, 100, Split::Whole); 8], &layout, 1);
        let source: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(&raw.source);
        let pair = |i: usize| {
            let tensors = [2 * i, 2 * i + 1].map(|tensor| format!("layer.{tensor}"));
            LayerSpec::new(format!("pair {i}"), tensors, Split::Whole)
        };
        let pairs = (0..4).map(pair).collect();
        let engine = Engine::new(source, cpu(2, true), pairs, kept_on_host(5000, 60_000)).unwrap();
        for disk_bytes in [8000, 0] {
            let mut pass = engine.begin(PassRequest::default()).unwrap();
            for i in 0..4 {
                let lease = pass.lease(LayerId(i), 0).unwrap();
                for (index, expected) in raw.layers[2 * i..2 * i + 2].iter().enumerate() {
                    assert!(lease.tensor(index).unwrap().bytes().unwrap() == expected, "pair {i}");
                }
                lease.finish(pass.device().ticket(Queue::Compute).unwrap());
            }
            assert_eq!(pass.finish().unwrap().disk_bytes, disk_bytes);
        }
        assert!(engine.plan().host_bytes > 0);
    });
}

#[test]
fn another_budget_evicts_and_fills() {
    in_time("another budget", || {
        for discrete in [false, true] {
            let raw = Raw::plain(5);
            let mut options = options(20_000, None, 2);
            options.calibrate = false;
            let engine = raw.engine(options, discrete);
            assert_eq!(pass(&raw, &engine).disk_bytes, 8000);
            assert_eq!(pass(&raw, &engine).disk_bytes, 0);
            let all = engine.budget().used();

            engine.set_limit(VramLimit::Bytes(4000)).unwrap();
            assert!(engine.budget().used() <= 4000, "evicted at once");
            let less = pass(&raw, &engine);
            assert!(!less.evictions.is_empty());
            assert!(less.evictions.iter().all(|e| e.reason == EvictionReason::Budget && e.bytes > 0));
            let streamed = pass(&raw, &engine).disk_bytes;
            assert!(streamed > 4000);

            engine.set_limit(VramLimit::Bytes(20_000)).unwrap();
            let filled = pass(&raw, &engine);
            assert_eq!(filled.disk_bytes, streamed, "what stayed is not read again");
            assert_eq!(pass(&raw, &engine).disk_bytes, 0);
            assert_eq!(engine.budget().used(), all);

            // Too small for anything: nothing is held, the pass says so, and it can be undone.
            engine.set_limit(VramLimit::Bytes(10)).unwrap();
            assert_eq!(engine.budget().used(), 0);
            assert!(matches!(
                engine.begin(PassRequest::default()),
                Err(Error::BudgetTooSmall { needed: 1000.., given: 10, .. })
            ));
            engine.set_limit(VramLimit::Bytes(20_000)).unwrap();
            pass(&raw, &engine);
        }
    });
}

#[test]
fn memory_is_left_free_where_the_device_can_tell() {
    let raw = Raw::plain(6);
    let engine = raw.engine(options(20_000, None, 1), false);
    match engine.device().memory() {
        Ok(memory) => {
            engine.set_limit(VramLimit::LeaveFree(memory.free / 2)).unwrap();
            let limit = engine.budget().limit();
            assert!(limit > memory.free / 4 && limit < memory.free, "{limit} of {}", memory.free);
            pass(&raw, &engine);
            engine.set_limit(VramLimit::LeaveFree(u64::MAX)).unwrap();
            assert!(matches!(engine.begin(PassRequest::default()), Err(Error::BudgetTooSmall { .. })));
        }
        Err(e) => {
            println!("skipped: {e}");
            let refused = engine.set_limit(VramLimit::LeaveFree(1)).unwrap_err();
            assert!(matches!(&refused, Error::Device(e) if matches!(**e, DeviceError::Unavailable { .. })));
        }
    }
}

/// A second lease of a layer whose unit was under lease was refused as a forbidden change of state.
#[test]
fn two_leases_of_one_unit_at_once() {
    in_time("two leases", || {
        for (budget, discrete) in [(20_000, false), (5000, false), (5000, true)] {
            let raw = Raw::plain(8);
            let mut options = options(budget, None, 2);
            if discrete {
                // Everything passes through the ring, which has room for what the dropped lease keeps.
                options.residents = false;
            }
            let engine = raw.engine(options, discrete);
            for _ in 0..3 {
                let mut pass = engine.begin(PassRequest::default()).unwrap();
                for layer in ALL {
                    let outer = pass.lease(LayerId(layer), 0).unwrap();
                    let inner = pass.lease(LayerId(layer), 0).unwrap();
                    assert!(bytes(&outer) == raw.layers[layer] && bytes(&inner) == raw.layers[layer]);
                    inner.finish(pass.device().ticket(Queue::Compute).unwrap());
                    assert!(
                        bytes(&outer) == raw.layers[layer],
                        "the inner lease freed the outer one's weights"
                    );
                    outer.finish(pass.device().ticket(Queue::Compute).unwrap());
                }
                let report = pass.finish().unwrap();
                assert!(report.device_bytes <= 8000);
                let kept = engine.states().iter().all(|s| *s != vram_layers::state::State::Computation);
                assert!(kept, "{:?}", engine.states());
            }
            if budget < 20_000 && !discrete {
                continue;
            }
            // One finished, one merely dropped: that keeps its place until the pass is over.
            let mut pass = engine.begin(PassRequest::default()).unwrap();
            let outer = pass.lease(LayerId(0), 0).unwrap();
            drop(pass.lease(LayerId(0), 0).unwrap());
            assert!(bytes(&outer) == raw.layers[0]);
            outer.finish(pass.device().ticket(Queue::Compute).unwrap());
            if budget == 20_000 {
                for layer in &ALL[1..] {
                    raw.check(&mut pass, *layer).unwrap();
                }
            }
            pass.finish().unwrap();
            self::pass(&raw, &engine);
        }
    });
}

#[test]
fn a_preloaded_model_is_there_when_it_is_called() {
    in_time("preloading", || {
        let raw = Raw::plain(9);
        let mut options = options(20_000, None, 2);
        options.calibrate = false;
        let engine = raw.engine(options, false);
        engine.preload(PassRequest::default()).unwrap();
        while raw.source.bytes_read() < 8000 {
            std::thread::yield_now();
        }
        // The last read may not be booked yet, which is a moment and no read.
        let report = pass(&raw, &engine);
        assert_eq!((report.disk_bytes, raw.source.bytes_read()), (8000, 8000));
        assert!(report.stalls.iter().all(|s| s.cause == StallCause::FirstLoad && s.seconds < 1.0));
        engine.offload().unwrap();
        assert!(matches!(engine.preload(PassRequest::default()), Err(Error::Offloaded)));
    });
}

fn two_blocks() -> ModelCase {
    let linear = |outputs| (StepCase::Linear { outputs, bias: true }, DType::F32);
    let block =
        |outputs| BlockCase { gain: false, steps: vec![(StepCase::LayerNorm, DType::F32), linear(outputs)] };
    ModelCase {
        tokens: 3,
        width: 40,
        table: None,
        blocks: vec![block(64), block(48)],
        compute: DType::F32,
        seed: 11,
    }
}

fn run(case: &ModelCase, source: &Arc<MemorySource>, config: VramConfig, discrete: bool) -> (Vec<u8>, u64) {
    let from: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(source);
    let net =
        enable_vram_management(Chain::build(case), from, cpu(2, discrete), &ModuleMap::standard(), config)
            .unwrap();
    let mut output = Vec::new();
    for _ in 0..2 {
        output = net.run(|net, fwd| net.forward(fwd, case)).unwrap();
    }
    (output, net.report().passes[0].device_bytes)
}

#[test]
fn a_storage_dtype_is_what_moves_and_norms_may_stay() {
    in_time("storage dtypes", || {
        let case = two_blocks();
        let source = case.source(&Layout::plain());
        let config = |limit| {
            let mut config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, limit));
            config.calibrate = false;
            config
        };
        let (exact, all) = run(&case, &source, config(1 << 20), false);
        let mut halves = Vec::new();
        for (limit, discrete) in [(1 << 20, false), (1 << 20, true), (12_000, false), (12_000, true)] {
            let mut half = config(limit);
            half.preparing = Placement { tier: Tier::Device, dtype: Some(DType::BF16) };
            let (output, bytes) = run(&case, &source, half.clone(), discrete);
            assert_eq!(bytes, all / 2);
            halves.push(output);
            // A rule for the norms: they stay f32, so that more bytes move and the answer is another.
            half.dtypes = StorageDtypes::checkpoint().with("*norm*", None).unwrap();
            let (with_norms, bytes) = run(&case, &source, half, discrete);
            assert!(bytes > all / 2 && bytes < all, "{bytes} of {all}");
            assert!(with_norms != halves[0]);
        }
        assert!(halves.windows(2).all(|pair| pair[0] == pair[1]), "the budget changed the answer");
        let (a, b) = (decode(&exact, DType::F32), decode(&halves[0], DType::F32));
        let error = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let size = a.iter().fold(0.0f32, |m, a| m.max(a.abs()));
        assert!(error > 0.0 && error < size * 0.05, "{error} of {size}");
    });
}

#[test]
fn placements_that_cannot_be_say_why() {
    let case = two_blocks();
    let refused = |change: &dyn Fn(&mut VramConfig), discrete: bool| -> String {
        let mut config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, 1 << 20));
        change(&mut config);
        let source: Arc<dyn WeightSource> = case.source(&Layout::plain());
        let net = enable_vram_management(
            Chain::build(&case),
            source,
            cpu(1, discrete),
            &ModuleMap::standard(),
            config,
        );
        match net {
            Ok(_) => panic!("a placement that cannot be is accepted"),
            Err(e) => e.to_string(),
        }
    };
    let on = |tier, dtype| Placement { tier, dtype };
    type Change<'a> = &'a dyn Fn(&mut VramConfig);
    let cases: [(Change<'_>, bool, &str); 7] = [
        (&|c| c.onload = on(Tier::Host, None), false, "no host tier"),
        (&|c| c.onload = on(Tier::Device, None), true, "what stays is preparing"),
        (&|c| c.offload = on(Tier::Host, None), true, "while it is active"),
        (&|c| c.offload = on(Tier::Disk, Some(DType::BF16)), true, "checkpoint's own dtype"),
        (&|c| c.computation = on(Tier::Host, Some(DType::F32)), true, "kernels read device memory"),
        (
            &|c| {
                c.onload = on(Tier::Host, Some(DType::BF16));
                c.preparing = on(Tier::Device, Some(DType::F16));
            },
            true,
            "one storage dtype",
        ),
        (
            &|c| c.dtypes = StorageDtypes::checkpoint().with("*", Some(DType::I64)).unwrap(),
            false,
            "cannot be cast",
        ),
    ];
    for (change, discrete, word) in cases {
        let message = refused(change, discrete);
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
    assert!(StorageDtypes::checkpoint().with("[", None).is_err());
}
