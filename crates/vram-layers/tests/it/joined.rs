//! Forwards that share a pass: each weight is fetched once, and each gives the bits that it gives alone.

use std::sync::Arc;

use proptest::prelude::*;
use vram_device::{Budget, Tier};
use vram_layers::{Error, Managed, ModuleMap, RunOptions, Uncovered, VramConfig, enable_vram_management};
use vram_types::WeightSource;

use crate::chain::{Chain, ModelCase, any_model};
use crate::common::{cpu, in_time};
use crate::source::Layout;

fn managed(case: &ModelCase, limit: u64, discrete: bool) -> Managed<Chain> {
    let source: Arc<dyn WeightSource> = case.source(&Layout::plain());
    let mut config = VramConfig::disk(case.compute, Budget::new(Tier::Device, limit));
    config.calibrate = false;
    let map = ModuleMap::standard().uncovered(Uncovered::Layer);
    enable_vram_management(Chain::build(case), source, cpu(2, discrete), &map, config).unwrap()
}

/// The same model on `n` inputs of different lengths.
fn inputs(case: &ModelCase, n: usize) -> Vec<ModelCase> {
    (0..n).map(|i| ModelCase { tokens: case.tokens + 2 * i, ..case.clone() }).collect()
}

fn together(net: &Managed<Chain>, inputs: &[ModelCase]) -> Result<Vec<Vec<u8>>, Error> {
    net.run_joined(RunOptions::default(), inputs.len(), |net, fwd, i| net.forward(fwd, &inputs[i]))
}

fn check(case: &ModelCase, count: usize, share: u64, discrete: bool) {
    let inputs = inputs(case, count);
    let alone: Vec<Vec<u8>> = inputs
        .iter()
        .map(|input| managed(case, u64::MAX, false).run(|net, fwd| net.forward(fwd, input)).unwrap())
        .collect();
    let needed = match together(&managed(case, 0, discrete), &inputs) {
        Err(Error::BudgetTooSmall { needed, .. }) => needed,
        other => panic!("not refused: {other:?}"),
    };
    assert!(together(&managed(case, needed - 1, discrete), &inputs).is_err());
    for limit in [needed, needed + share * 500, u64::MAX] {
        let net = managed(case, limit, discrete);
        for _ in 0..2 {
            assert!(together(&net, &inputs).unwrap() == alone, "other bits under {limit} bytes");
        }
        let report = net.report();
        assert!(report.peak_bytes <= limit);
        for pass in &report.passes {
            if case.table.is_none() {
                assert_eq!(pass.device_bytes, pass.planned_bytes, "a weight was fetched twice");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn together_is_as_alone(case in any_model(), count in 1usize..4, share in 0u64..40, discrete in any::<bool>()) {
        in_time("joined passes", move || check(&case, count, share, discrete));
    }
}

fn any_case(seed: u64) -> ModelCase {
    use crate::chain::{BlockCase, StepCase};
    let step = || (StepCase::Linear { outputs: 30, bias: true }, vram_types::DType::F32);
    let block = || BlockCase { gain: false, steps: vec![step(), step()] };
    let compute = vram_types::DType::F32;
    ModelCase { tokens: 2, width: 30, table: None, blocks: vec![block(), block()], compute, seed }
}

#[test]
fn who_leaves_the_row_ends_it_for_all_and_the_model_goes_on() {
    in_time("forwards that differ", || {
        let case = any_case(3);
        let net = managed(&case, 1 << 20, false);
        let inputs = inputs(&case, 3);
        let expected = together(&net, &inputs).unwrap();
        // One stops early: its layers are others.
        let early = net.run_joined(RunOptions::default(), 3, |net, fwd, i| {
            if i == 1 { Ok(Vec::new()) } else { net.forward(fwd, &inputs[i]) }
        });
        assert!(matches!(early, Err(Error::Model(_))), "{early:?}");
        // One fails in the middle of the real run.
        let failing = net.run_joined(RunOptions::default(), 3, |net, fwd, i| {
            let output = net.forward(fwd, &inputs[i])?;
            if i == 2 && !fwd.is_dry() { Err(Error::Shape("no".into())) } else { Ok(output) }
        });
        assert!(matches!(failing, Err(Error::Shape(_))), "{failing:?}");
        // One panics.
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            net.run_joined(RunOptions::default(), 2, |net, fwd, i| {
                assert!(i == 0 || fwd.is_dry(), "a forward panics");
                net.forward(fwd, &inputs[i])
            })
        }));
        assert!(panic.is_err());
        let cancel = vram_types::CancelToken::new();
        cancel.cancel();
        let options = RunOptions { cancel, ..RunOptions::default() };
        let cancelled = net.run_joined(options, 2, |net, fwd, i| net.forward(fwd, &inputs[i]));
        assert!(matches!(cancelled, Err(Error::Cancelled)));
        assert_eq!(together(&net, &[]).unwrap().len(), 0);
        assert!(together(&net, &inputs).unwrap() == expected);
    });
}
