//! Three models under one budget that is smaller than the largest of them.

use std::sync::Arc;

use vram_device::{Budget, Tier};
use vram_layers::{Engine, Error, EvictionReason, PassReport, PassRequest, Pipeline, Split};

use crate::common::{Raw, in_time, options};
use crate::source::Layout;

struct Model {
    name: &'static str,
    raw: Raw,
    engine: Arc<Engine>,
    layers: usize,
}

impl Model {
    fn new(name: &'static str, layers: usize, seed: u64, budget: &Budget, discrete: bool) -> Model {
        let raw = Raw::new(&vec![(10, 100, Split::Whole); layers], &Layout::plain(), seed);
        let mut options = options(0, None, 2);
        options.budget = budget.clone();
        options.calibrate = false;
        let engine = Arc::new(raw.engine(options, discrete));
        Model { name, raw, engine, layers }
    }

    /// A pass whose bytes are right, and as many as the plan says.
    fn pass(&self, workspace: u64) -> PassReport {
        let mut pass = self.engine.begin(PassRequest { workspace, ..PassRequest::default() }).unwrap();
        for layer in 0..self.layers {
            self.raw.check(&mut pass, layer).unwrap();
        }
        let report = pass.finish().unwrap();
        assert_eq!(report.device_bytes, report.planned_bytes, "{}", self.name);
        report
    }
}

/// A text encoder of 6 layers, a transformer of 40 and a decoder of 8, of 1000 bytes each, under 24,000 bytes.
fn models(discrete: bool) -> (Budget, [Model; 3]) {
    let budget = Budget::new(Tier::Device, 24_000);
    let model = |name, layers, seed| Model::new(name, layers, seed, &budget, discrete);
    let all = [model("text encoder", 6, 1), model("transformer", 40, 2), model("decoder", 8, 3)];
    (budget, all)
}

#[test]
fn three_models_under_a_budget_smaller_than_the_largest() {
    in_time("a pipeline", || {
        for discrete in [false, true] {
            let (budget, models) = models(discrete);
            let pipeline = Pipeline::new(budget.clone());
            for model in &models {
                pipeline.add(model.name, &model.engine).unwrap();
            }
            let [text, image, decoder] = &models;
            let mut moved = Vec::new();
            for picture in 0..5 {
                let mut bytes = [0; 3];
                bytes[0] += text.pass(500).device_bytes;
                for _ in 0..10 {
                    bytes[1] += image.pass(1000).device_bytes;
                }
                bytes[2] += decoder.pass(2000).device_bytes;
                println!("picture {picture}: {bytes:?} bytes moved");
                moved.push(bytes);
                assert!(budget.used() <= 24_000 && budget.peak() <= 24_000);
            }
            // The cycle is learnt: from the second picture on nothing changes.
            assert!(moved[2..].windows(2).all(|pair| pair[0] == pair[1]), "{moved:?}");
            // Ten passes of the transformer are never worse than with everything else put away by hand.
            let alone = {
                let (_, [_, image, _]) = self::models(discrete);
                let first = image.pass(1000).device_bytes;
                first + 9 * image.pass(1000).device_bytes
            };
            assert!(moved[4][1] <= alone, "{} and alone {alone}", moved[4][1]);
            let switches = pipeline.switches();
            assert_eq!(switches.len(), 15);
            assert_eq!(switches[4].expected_passes, 10);
            assert!(switches.iter().all(|s| s.kept_by_others <= 24_000));
            // What was evicted is what has to be read again, and was said so.
            let evicted: u64 = switches.iter().map(|s| s.evicted_bytes()).sum();
            assert!(evicted > 0);
            drop(models);
            assert_eq!(budget.used(), 0);
        }
    });
}

#[test]
fn what_fits_stays_and_is_not_loaded_again() {
    in_time("a pipeline that fits", || {
        let (budget, models) = models(false);
        budget.set_limit(70_000);
        let pipeline = Pipeline::new(budget);
        for model in &models {
            pipeline.add(model.name, &model.engine).unwrap();
        }
        for model in &models {
            assert_eq!(model.pass(500).device_bytes, 1000 * model.layers as u64);
        }
        for _ in 0..3 {
            for model in &models {
                assert_eq!(model.pass(500).device_bytes, 0, "{} was never evicted", model.name);
            }
        }
        assert!(pipeline.switches().iter().all(|s| s.evicted.is_empty()));
    });
}

#[test]
fn a_model_that_runs_gives_nothing() {
    in_time("two at once", || {
        let (budget, models) = models(false);
        let pipeline = Pipeline::new(budget);
        for model in &models {
            pipeline.add(model.name, &model.engine).unwrap();
        }
        let [text, image, decoder] = &models;
        text.pass(0);
        let running = image.engine.begin(PassRequest::default()).unwrap();
        // The transformer has taken what it can, and goes on to hold it.
        match decoder.engine.begin(PassRequest { workspace: 24_000, ..PassRequest::default() }) {
            Err(Error::BudgetTooSmall { given, .. }) => assert!(given < 24_000),
            other => panic!("{:?}", other.err()),
        }
        drop(running);
        let report = decoder.pass(2000);
        assert_eq!(report.device_bytes, 8000);
        // Evictions are told to the model that suffered them, at its next pass.
        let next = image.pass(1000);
        let other = |e: &EvictionReason| matches!(e, EvictionReason::Pipeline | EvictionReason::Budget);
        assert!(next.evictions.iter().all(|e| other(&e.reason)), "{:?}", next.evictions);

        let own = Model::new("alone", 3, 4, &Budget::new(Tier::Device, 9000), false);
        assert!(matches!(pipeline.add("alone", &own.engine), Err(Error::Unsupported(_))));
    });
}
