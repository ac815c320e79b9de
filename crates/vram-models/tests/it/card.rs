//! Models whose outputs are known, on any device: near to PyTorch, and the same bits at the smallest budget and resident.

use std::sync::Arc;

use vram_device::{Budget, Kernels, Tier};
use vram_diskmap::DiskMap;
use vram_layers::{Managed, ModuleMap, VramConfig};
use vram_models::bert::Bert;
use vram_models::controlnet::ControlNet;
use vram_types::{DType, WeightSource};

use crate::common::{config, golden, read_f32, relative_l2};
use crate::controlnet::{managed, output, widen, with_inputs};
use crate::minilm::MiniLm;
use crate::smollm2::{END, SmolLm2, greedy};

/// The smallest budget for the golden inputs, in bytes.
pub(crate) fn smallest(model: &Managed<ControlNet>) -> u64 {
    with_inputs(|inputs| model.minimum_budget(|m, fwd| m.forward(fwd, inputs)).unwrap())
}

/// Weights on disk, or in host memory between passes, where copies start from the same staging again and again.
pub(crate) fn places(dtype: DType, bytes: u64) -> [VramConfig; 2] {
    let (device, host) = (Budget::new(Tier::Device, bytes), Budget::new(Tier::Host, 1 << 30));
    [config(dtype, bytes), VramConfig::host(dtype, device, host)]
}

pub(crate) fn controlnet_equals_pytorch_and_no_budget_changes_a_bit(device: &Arc<dyn Kernels>) {
    let io = DiskMap::open(golden("controlnet_small_io.safetensors")).unwrap();
    let expected = read_f32(&io, "expected.f32");
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    let map = ModuleMap::standard();
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 1.5e-2)] {
        let on = |config| managed(Arc::clone(&source), Arc::clone(device), &map, config);
        let resident = output(&on(config(dtype, 1 << 30)));
        let error = relative_l2(&widen(dtype, &resident), &expected);
        println!("controlnet on {}, {dtype}: relative L2 error {error:.2e}", device.info().name);
        assert!(error < tolerance, "{dtype}: {error}");
        let smallest = smallest(&on(config(dtype, 0)));
        for budget in [smallest, smallest + (200 << 10)] {
            for config in places(dtype, budget) {
                let model = on(config);
                for pass in 0..3 {
                    assert!(output(&model) == resident, "{dtype}, budget {budget}, pass {pass}");
                }
                assert!(model.report().peak_bytes <= budget, "{:?}", model.report());
            }
        }
    }
}

pub(crate) fn minilm_equals_pytorch_and_no_budget_changes_a_bit(device: &Arc<dyn Kernels>) {
    let Some(minilm) = MiniLm::open() else { return };
    // Three sentences: adapters and drivers that are software are slow.
    let ids: Vec<&[u32]> = minilm.ids.iter().take(3).map(Vec::as_slice).collect();
    let expected = read_f32(&DiskMap::open(golden("minilm_embeddings.safetensors")).unwrap(), "embeddings");
    let on = |budget| minilm.on(Arc::clone(device), config(DType::F32, budget));
    let embed = |model: &Managed<Bert>| model.run(|m, fwd| m.embed(fwd, &ids)).unwrap();
    let resident = embed(&on(u64::MAX));
    let worst = resident.iter().flatten().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0f32, f32::max);
    println!("MiniLM on {}, f32: largest error {worst:.2e}", device.info().name);
    assert!(worst < 2e-5, "{worst}");
    let smallest = on(0).minimum_budget(|m, fwd| m.embed(fwd, &ids)).unwrap();
    let model = on(smallest);
    for pass in 0..2 {
        assert!(embed(&model) == resident, "budget {smallest}, pass {pass}");
    }
    assert!(model.report().peak_bytes <= smallest);
}

pub(crate) fn smollm2_says_what_pytorch_says_and_no_budget_changes_a_bit(device: &Arc<dyn Kernels>) {
    let Some(smollm2) = SmolLm2::open() else { return };
    // A few tokens: adapters and drivers that are software are slow.
    let (case, tokens) = (&smollm2.cases[0], 3);
    let on = |budget| smollm2.on(Arc::clone(device), config(DType::F32, budget));
    let resident = on(2 << 30);
    let (logits, ids) = greedy(&resident, &case.prompt_ids, tokens, END);
    assert_eq!(ids, case.greedy_ids[..tokens]);
    let difference = |(id, expected): (&usize, &f32)| (logits[*id] - expected).abs();
    let worst = case.first_top5_ids.iter().zip(&case.first_top5_logits).map(difference).fold(0f32, f32::max);
    println!("SmolLM2 on {}, f32: largest difference of five logits {worst:.2e}", device.info().name);
    assert!(worst < 1e-2, "{worst}");
    let budget = resident.engine().weights_bytes() / 4;
    drop(resident);
    let small = on(budget);
    assert!(greedy(&small, &case.prompt_ids, 1, END).0 == logits, "budget {budget}");
    assert!(small.report().peak_bytes <= budget);
}
