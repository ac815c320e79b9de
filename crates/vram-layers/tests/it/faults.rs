//! Faults by wrapping the source: an error that says where, an engine that goes on, and no byte left behind.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use vram_device::Queue;
use vram_layers::{
    Engine, Error, LayerId, ModuleMap, PassRequest, Split, VramConfig, enable_vram_management,
};
use vram_types::{DType, ReadOptions, ReadRequest, ReadTarget, SourceError, SourceErrorKind, WeightSource};

use crate::chain::{BlockCase, Chain, ModelCase, StepCase};
use crate::common::{Raw, bytes, cpu, in_time, options, source_error};
use crate::source::{Before, Layout, MemorySource};

#[derive(Debug)]
pub enum Fault {
    Error,
    Short,
    Panic,
    /// Every read takes its time.
    Slow,
    /// Says that it is there and waits for an answer, or to be cancelled.
    Wait(Sender<()>, Mutex<Receiver<()>>),
}

fn error(inner: &MemorySource, kind: SourceErrorKind, request: &ReadRequest<'_>) -> SourceError {
    let e = SourceError::new(kind, "on request").retryable(true);
    match request.target {
        ReadTarget::Tensor { name, offset } => e.at_tensor(name).at_offset(offset),
        ReadTarget::File { file, offset } => e
            .at_path(&*inner.describe(file).unwrap())
            .at_tensor(inner.tensor_at(file, offset).unwrap())
            .at_offset(offset),
    }
}

/// A source whose `at`-th read goes wrong, once.
fn faulty(inner: &Arc<MemorySource>, at: i64, fault: Fault) -> Arc<dyn WeightSource> {
    let (left, of) = (AtomicI64::new(at), Arc::clone(inner));
    let before = move |requests: &mut [ReadRequest<'_>], options: &ReadOptions| {
        let now = left.fetch_sub(1, Ordering::SeqCst) == 0;
        match &fault {
            Fault::Slow => (0..100).for_each(|_| std::thread::yield_now()),
            Fault::Error if now => return Err(error(&of, SourceErrorKind::Io, &requests[0])),
            Fault::Short if now => {
                for request in requests.iter_mut() {
                    request.dst.fill(0);
                }
                return Err(error(&of, SourceErrorKind::Truncated, &requests[0]));
            }
            Fault::Panic if now => std::panic::panic_any("the source's own panic"),
            Fault::Wait(here, go) if now => {
                here.send(()).unwrap();
                let go = go.lock().unwrap();
                while go.try_recv().is_err() {
                    options.check()?;
                    std::thread::yield_now();
                }
            }
            _ => {}
        }
        Ok(())
    };
    Arc::new(Before { inner: Arc::clone(inner), before })
}

/// Panics of ours are expected, and need not fill the log.
fn quiet() {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>().is_none_or(|s| !s.ends_with("own panic")) {
                usual(info);
            }
        }));
    });
}

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

#[test]
fn every_read_may_fail_once() {
    quiet();
    for fault in [|| Fault::Error, || Fault::Short, || Fault::Panic] {
        for (discrete, readers, residents) in
            [(false, 1, true), (false, 3, true), (true, 2, true), (true, 3, false)]
        {
            for (n, calibrate) in (0..24).flat_map(|n| [(n, false), (n, true)]) {
                in_time(&format!("read {n}, discrete {discrete}, {readers} readers"), move || {
                    let raw = Raw::plain(n as u64);
                    let mut options = options(5000, Some(2100), readers);
                    options.residents = residents;
                    options.calibrate = calibrate;
                    let (budget, host) = (options.budget.clone(), options.host_budget.clone());
                    let kind = match fault() {
                        Fault::Short => SourceErrorKind::Truncated,
                        _ => SourceErrorKind::Io,
                    };
                    let engine = raw.engine_over(faulty(&raw.source, n, fault()), options, discrete);
                    // How many reads a pass takes depends on what the plan keeps, but each takes one at least.
                    let failed = (0..40).find_map(|_| raw.pass(&engine, &ALL).err());
                    for _ in 0..3 {
                        raw.pass(&engine, &ALL).unwrap();
                    }
                    // A new plan drops what the old one had read ahead, and with it a failure that nobody had met yet.
                    assert!(failed.is_some() || calibrate, "nobody met the failure of read {n}");
                    if let Some(e) = failed.as_ref().map(source_error) {
                        assert_eq!(e.kind(), kind);
                        assert!(e.offset().is_some(), "{e}");
                        assert_eq!(e.file().as_deref(), Some("memory-0.bin"));
                        if !matches!(fault(), Fault::Panic) {
                            assert!(e.tensor().unwrap().starts_with("layer."), "{e}");
                        }
                    }
                    drop(engine);
                    assert_eq!((budget.used(), host.used()), (0, 0));
                });
            }
        }
    }
}

/// A resident that could not be read left its place in the order behind without weights, and a second attempt in the
/// same pass span for ever, looking for something to issue.
#[test]
fn a_failed_lease_may_be_tried_again_in_the_same_pass() {
    quiet();
    for (budget, residents) in [(9000, true), (5000, true), (2100, false)] {
        for n in 0..8 {
            in_time("a second attempt", move || {
                let raw = Raw::plain(n as u64);
                let mut options = options(budget, None, 1);
                options.residents = residents;
                let engine = raw.engine_over(faulty(&raw.source, n, Fault::Error), options, false);
                let mut pass = engine.begin(PassRequest::default()).unwrap();
                let mut failures = 0;
                for layer in ALL {
                    for _ in 0..3 {
                        match raw.check(&mut pass, layer) {
                            Ok(()) => break,
                            Err(e) => {
                                source_error(&e);
                                failures += 1;
                            }
                        }
                    }
                }
                assert!(failures > 0);
                drop(pass);
                raw.pass(&engine, &ALL).unwrap();
            });
        }
    }
}

#[test]
fn slow_reads_are_only_slow() {
    for discrete in [false, true] {
        in_time("slow reads", move || {
            let raw = Raw::plain(3);
            let engine =
                raw.engine_over(faulty(&raw.source, 0, Fault::Slow), options(3000, None, 3), discrete);
            for _ in 0..3 {
                raw.pass(&engine, &ALL).unwrap();
            }
        });
    }
}

/// A panic while rows were read left nobody to answer, and the pass waited for ever.
#[test]
fn gathered_rows_may_fail() {
    quiet();
    for discrete in [false, true] {
        for fault in [|| Fault::Error, || Fault::Short, || Fault::Panic] {
            in_time("rows", move || {
                let raw = Raw::new(&[(10, 30, Split::Gather)], &Layout::plain(), 5);
                let options = options(1000, None, 2);
                let budget = options.budget.clone();
                let mut options = options;
                options.residents = false;
                let engine = raw.engine_over(faulty(&raw.source, 0, fault()), options, discrete);
                let mut pass =
                    engine.begin(PassRequest { workspace: 600, ..PassRequest::default() }).unwrap();
                let error = pass.gather(LayerId(0), 0, &[1, 2]).unwrap_err();
                assert_eq!(source_error(&error).tensor(), Some("layer.0"));
                let rows = pass.gather(LayerId(0), 0, &[9, 0, 9]).unwrap();
                let row = |i: usize| &raw.layers[0][i * 30..][..30];
                assert_eq!(rows.host().unwrap(), [row(9), row(0), row(9)].concat());
                drop((rows, pass));
                drop(engine);
                assert_eq!(budget.used(), 0);
            });
        }
    }
}

fn waiting(raw: &Raw, at: i64) -> (Arc<dyn WeightSource>, Receiver<()>, Sender<()>) {
    let ((here, arrived), (go, wait)) = (channel(), channel());
    (faulty(&raw.source, at, Fault::Wait(here, Mutex::new(wait))), arrived, go)
}

#[test]
fn a_pass_is_cancelled_in_the_middle() {
    for discrete in [false, true] {
        in_time("cancelling", move || {
            let raw = Raw::plain(8);
            let (source, arrived, go) = waiting(&raw, 4);
            let mut options = options(2100, None, 2);
            options.residents = false;
            let engine = raw.engine_over(source, options, discrete);
            let request = PassRequest::default();
            let cancel = request.cancel.clone();
            let result = std::thread::scope(|scope| {
                scope.spawn(move || {
                    arrived.recv().unwrap();
                    cancel.cancel();
                    go.send(()).unwrap();
                });
                let mut pass = engine.begin(request)?;
                ALL.iter().try_for_each(|&layer| raw.check(&mut pass, layer))
            });
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
            raw.pass(&engine, &ALL).unwrap();
        });
    }
}

#[test]
fn the_engine_may_be_dropped_while_its_readers_read() {
    for readers in [1, 3] {
        in_time("dropping", move || {
            let raw = Raw::plain(9);
            let (source, arrived, _go) = waiting(&raw, 8 + readers as i64);
            let mut options = options(8 * 1100, Some(8 * 1100), readers);
            options.residents = false;
            let (budget, host) = (options.budget.clone(), options.host_budget.clone());
            let engine = raw.engine_over(source, options, readers == 3);
            raw.pass(&engine, &ALL).unwrap();
            arrived.recv().unwrap();
            drop(engine);
            assert_eq!((budget.used(), host.used()), (0, 0));
        });
    }
}

#[test]
fn a_pass_and_a_lease_may_be_dropped_anywhere() {
    for discrete in [false, true] {
        for stop in 0..8 {
            in_time("dropping", move || {
                let raw = Raw::plain(stop as u64);
                let options = options(4500, Some(2100), 2);
                let budget = options.budget.clone();
                let engine = raw.engine(options, discrete);
                for _ in 0..3 {
                    let mut pass = engine.begin(PassRequest::default()).unwrap();
                    for layer in 0..stop {
                        raw.check(&mut pass, layer).unwrap();
                    }
                    let lease = pass.lease(LayerId(stop), 0).unwrap();
                    assert!(bytes(&lease) == raw.layers[stop]);
                    drop(lease);
                    // One of two slots is kept from reuse, which leaves the other.
                    if stop + 1 < 8 {
                        raw.check(&mut pass, stop + 1).unwrap();
                    }
                    drop(pass);
                    raw.pass(&engine, &ALL).unwrap();
                }
                assert!(budget.peak() <= budget.limit());
                drop(engine);
                assert_eq!(budget.used(), 0);
            });
        }
    }
}

#[test]
fn errors_and_panics_of_a_forward_leave_the_model_usable() {
    quiet();
    let linear = |outputs| (StepCase::Linear { outputs, bias: true }, DType::BF16);
    let case = ModelCase {
        tokens: 3,
        width: 20,
        table: None,
        blocks: vec![BlockCase { gain: false, steps: vec![linear(40), linear(60), linear(7)] }],
        compute: DType::F32,
        seed: 4,
    };
    let limit = vram_device::Budget::new(vram_device::Tier::Device, 16 << 10);
    let config = VramConfig::disk(DType::F32, limit.clone());
    let source = case.source(&Layout::plain());
    let map = ModuleMap::standard();
    let model = enable_vram_management(Chain::build(&case), source, cpu(1, false), &map, config).unwrap();
    let right = model.run(|m, fwd| m.forward(fwd, &case)).unwrap();
    for panics in [false, true] {
        let failing = catch_unwind(AssertUnwindSafe(|| {
            model.run(|m, fwd| {
                let output = m.forward(fwd, &case)?;
                let _kept = fwd.tensor([5])?;
                if fwd.is_dry() {
                    return Ok(output);
                }
                if panics {
                    std::panic::panic_any("the model's own panic");
                }
                Err(Error::Shape("the model's own error".into()))
            })
        }));
        match failing {
            Ok(result) => assert_eq!(result.unwrap_err().to_string(), "the model's own error"),
            Err(_) => assert!(panics),
        }
        assert!(model.run(|m, fwd| m.forward(fwd, &case)).unwrap() == right);
    }
    drop(model);
    assert_eq!(limit.used(), 0);
}

#[test]
fn a_second_pass_is_refused_while_one_runs() {
    let raw = Raw::plain(1);
    let engine: Engine = raw.engine(options(4000, None, 2), false);
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    assert!(matches!(engine.begin(PassRequest::default()), Err(Error::Busy)));
    assert!(matches!(engine.offload(), Err(Error::Busy)));
    raw.check(&mut pass, 0).unwrap();
    pass.device().ticket(Queue::Compute).unwrap();
    pass.finish().unwrap();
    raw.pass(&engine, &ALL).unwrap();
}
