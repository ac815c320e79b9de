//! The real engine and its readers.

use std::sync::{Arc, LazyLock};

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use vram_device::{Budget, Tier};
use vram_layers::{Engine, Error, LayerId, PassRequest, Split, VramLimit};
use vram_types::{CancelToken, ReadOptions, ReadRequest, SourceError, SourceErrorKind, WeightSource};

use crate::common::{Raw, options};
use crate::source::{Before, Layout};

/// Four layers of 1000 bytes.
static RAW: LazyLock<Raw> = LazyLock::new(|| Raw::new(&[(10, 100, Split::Whole); 4], &Layout::plain(), 1));

const ORDER: [usize; 4] = [0, 1, 2, 3];

/// Weights in memory; while they are read, others may go on. One read fails, if asked to.
fn source(fails: Option<u64>) -> Arc<dyn WeightSource> {
    let (reads, half) = (AtomicU64::new(0), AtomicU64::new(0));
    let before = move |requests: &mut [ReadRequest<'_>], _: &ReadOptions| {
        let read = reads.fetch_add(1, Ordering::SeqCst);
        for request in requests.iter_mut() {
            // Who leases too early finds this.
            request.dst.fill(0x5a);
        }
        half.fetch_add(1, Ordering::SeqCst);
        if fails == Some(read) {
            return Err(SourceError::new(SourceErrorKind::Io, "on request").retryable(true));
        }
        Ok(())
    };
    Arc::new(Before { inner: Arc::clone(&RAW.source), before })
}

/// An engine with two readers, one resident and a ring of two slots; what it may hold, and of the host.
struct Rig {
    engine: Arc<Engine>,
    budget: Budget,
    host: Budget,
}

impl Rig {
    fn new(discrete: bool, bytes: u64, fails: Option<u64>) -> Rig {
        let mut options = options(bytes, Some(2000), 2);
        // Schedules are to be the same each time, whatever the time is.
        options.calibrate = false;
        // Staging for half of a layer, so that each comes in pieces.
        options.host_budget = Budget::new(Tier::Host, 2056);
        let (budget, host) = (options.budget.clone(), options.host_budget.clone());
        let engine = Arc::new(RAW.engine_over(source(fails), options, discrete));
        Rig { engine, budget, host }
    }

    fn pass(&self) -> Result<(), Error> {
        RAW.pass(&self.engine, &ORDER)
    }

    /// Ends the engine, and nothing is held any more.
    fn end(self) {
        let Rig { engine, budget, host } = self;
        drop(engine);
        assert_eq!((budget.used(), host.used()), (0, 0));
    }
}

/// As planned, around the end of the pass, and in another order.
fn passes(discrete: bool) {
    let rig = Rig::new(discrete, 3000, None);
    rig.pass().unwrap();
    rig.pass().unwrap();
    RAW.pass(&rig.engine, &[2, 0, 3, 1]).unwrap();
    rig.end();
}

/// Another thread cancels.
fn cancelled(discrete: bool) {
    let rig = Rig::new(discrete, 3000, None);
    let cancel = CancelToken::new();
    let theirs = cancel.clone();
    let other = thread::spawn(move || theirs.cancel());
    let mut pass = rig.engine.begin(PassRequest { cancel, ..PassRequest::default() }).unwrap();
    match ORDER.iter().try_for_each(|&layer| RAW.check(&mut pass, layer)) {
        Ok(()) | Err(Error::Cancelled) => {}
        Err(e) => panic!("{e}"),
    }
    drop(pass);
    other.join().unwrap();
    rig.pass().unwrap();
    rig.end();
}

/// The engine goes while its readers read, and a lease outlives it.
fn dropped(discrete: bool) {
    let Rig { engine, budget, host } = Rig::new(discrete, 3000, None);
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    RAW.check(&mut pass, 0).unwrap();
    let lease = pass.lease(LayerId(1), 0).unwrap();
    drop(pass);
    drop(engine);
    assert!(crate::common::bytes(&lease) == RAW.layers[1]);
    drop(lease);
    assert_eq!((budget.used(), host.used()), (0, 0));
}

/// Another thread puts the model away.
pub(crate) fn put_away(discrete: bool) {
    let rig = Rig::new(discrete, 3000, None);
    let engine = Arc::clone(&rig.engine);
    let other = thread::spawn(move || match engine.offload() {
        Ok(()) => {
            assert_eq!(engine.budget().used(), 0, "held by a model that is put away");
        }
        Err(Error::Busy) => {}
        Err(e) => panic!("{e}"),
    });
    match rig.pass() {
        Ok(()) | Err(Error::Busy | Error::Offloaded) => {}
        Err(e) => panic!("{e}"),
    }
    other.join().unwrap();
    rig.engine.onload().unwrap();
    rig.pass().unwrap();
    rig.end();
}

/// A budget that is too small takes nothing, and the smallest that is not suffices.
fn too_small(discrete: bool) {
    let rig = Rig::new(discrete, 500, None);
    assert!(matches!(rig.pass(), Err(Error::BudgetTooSmall { .. })));
    assert_eq!(rig.budget.used(), 0);
    let trace = ORDER.map(LayerId);
    let least = rig.engine.minimum_budget(0, &trace).unwrap();
    rig.engine.set_limit(VramLimit::Bytes(least.max(2000))).unwrap();
    rig.pass().unwrap();
    rig.engine.set_limit(VramLimit::Bytes(3000)).unwrap();
    rig.pass().unwrap();
    rig.end();
}

/// One read fails, and with it one pass at the most.
pub(crate) fn fails_once(discrete: bool) {
    let rig = Rig::new(discrete, 3000, Some(thread_rng().gen_range(0..12)));
    let mut failed = 0;
    for _ in 0..3 {
        match rig.pass() {
            Ok(()) => {}
            Err(Error::Source(_)) => failed += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(failed <= 1, "{failed} passes failed of one read");
    rig.end();
}

pub(crate) type Model = fn(bool);

/// Under a device whose memory the host sees, and under one with staging.
macro_rules! explored {
    ($($test:ident: $model:ident;)*) => {$(
        #[cfg(not(feature = "mutations"))]
        #[test]
        fn $test() {
            crate::explore(200, || $model(false));
            crate::explore(200, || $model(true));
        }
    )*};
}

explored! {
    passes_find_their_bytes: passes;
    another_thread_cancels: cancelled;
    the_engine_goes_while_it_reads: dropped;
    another_thread_puts_the_model_away: put_away;
    a_budget_is_too_small_at_first: too_small;
    a_read_fails_once: fails_once;
}
