//! Models whose outputs are known, on any device: near to PyTorch, and the same bits at the smallest budget and resident.

use std::sync::Arc;

use vram_alloc::skip_init;
use vram_device::{Budget, Kernels, Tier};
use vram_diskmap::DiskMap;
use vram_layers::{Managed, ModuleMap, VramConfig, enable_vram_management};
use vram_models::bert::{self, Bert};
use vram_models::controlnet::ControlNet;
use vram_types::{DType, WeightSource};

use crate::common::{config, golden, read_f32, relative_l2};
use crate::controlnet::{managed, output, widen, with_inputs};
use crate::minilm::{folder, golden_ids};

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

/// The real model, and token ids of the sentences whose embeddings are known.
pub(crate) struct MiniLm {
    pub(crate) source: Arc<dyn WeightSource>,
    json: String,
    pub(crate) ids: Vec<Vec<u32>>,
}

impl MiniLm {
    pub(crate) fn open() -> Option<MiniLm> {
        let Some(folder) = folder() else {
            println!(
                "skipped: MiniLM is not here; `cargo xtask models` fetches it, or VRAM_MINILM names its folder"
            );
            return None;
        };
        Some(MiniLm {
            source: Arc::new(DiskMap::open(folder.join("model.safetensors")).unwrap()),
            json: std::fs::read_to_string(folder.join("config.json")).unwrap(),
            ids: golden_ids(),
        })
    }

    pub(crate) fn on(&self, device: Arc<dyn Kernels>, config: VramConfig) -> Managed<Bert> {
        let bert = bert::Config::read(&*self.source, &self.json).unwrap();
        let model = skip_init(|| Bert::new(&bert).unwrap());
        let source = Arc::clone(&self.source);
        enable_vram_management(model, source, device, &ModuleMap::standard(), config).unwrap()
    }
}
