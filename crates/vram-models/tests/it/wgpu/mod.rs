//! The models on the first adapter that is here: near to PyTorch, and the same bits at the smallest budget and resident.

mod limits;
mod memory;
mod watched;

use std::sync::Arc;

use vram_alloc::skip_init;
use vram_device::wgpu::{Wgpu, WgpuOptions, api};
use vram_device::{Budget, Device, DeviceError, Kernels, Tier};
use vram_diskmap::DiskMap;
use vram_layers::{Managed, ModuleMap, VramConfig, enable_vram_management};
use vram_models::bert::{self, Bert};
use vram_models::controlnet::ControlNet;
use vram_types::{DType, WeightSource};

use crate::common::{config, golden, read_f32, relative_l2};
use crate::controlnet::{managed, output, widen, with_inputs};
use crate::minilm::{folder, golden_ids};

fn device(options: WgpuOptions) -> Option<Arc<Wgpu>> {
    match Wgpu::new(options) {
        Ok(wgpu) => Some(Arc::new(wgpu)),
        Err(reason @ DeviceError::Unavailable { .. }) => {
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The smallest budget for the golden inputs, in bytes.
fn smallest(model: &Managed<ControlNet>) -> u64 {
    with_inputs(|inputs| model.minimum_budget(|m, fwd| m.forward(fwd, inputs)).unwrap())
}

/// Weights on disk, or in host memory between passes, where copies start from the same staging again and again.
fn places(dtype: DType, bytes: u64) -> [VramConfig; 2] {
    let (device, host) = (Budget::new(Tier::Device, bytes), Budget::new(Tier::Host, 1 << 30));
    [config(dtype, bytes), VramConfig::host(dtype, device, host)]
}

#[test]
fn the_controlnet_equals_pytorch_and_no_budget_changes_a_bit() {
    let Some(wgpu) = device(WgpuOptions::default()) else { return };
    // The adapter is used as one without 16-bit arithmetic, whatever it has.
    assert!(!wgpu.device().features().contains(api::Features::SHADER_F16));
    let io = DiskMap::open(golden("controlnet_small_io.safetensors")).unwrap();
    let expected = read_f32(&io, "expected.f32");
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    let map = ModuleMap::standard();
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 1.5e-2)] {
        let on = |config| {
            managed(Arc::clone(&source), Arc::<Wgpu>::clone(&wgpu) as Arc<dyn Kernels>, &map, config)
        };
        let resident = output(&on(config(dtype, 1 << 30)));
        let error = relative_l2(&widen(dtype, &resident), &expected);
        println!("controlnet on {}, {dtype}: relative L2 error {error:.2e}", wgpu.info().name);
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

#[test]
fn minilm_equals_pytorch_and_no_budget_changes_a_bit() {
    let Some(wgpu) = device(WgpuOptions::default()) else { return };
    let Some(minilm) = MiniLm::open() else { return };
    // Three sentences: software adapters are slow.
    let ids: Vec<&[u32]> = minilm.ids.iter().take(3).map(Vec::as_slice).collect();
    let expected = read_f32(&DiskMap::open(golden("minilm_embeddings.safetensors")).unwrap(), "embeddings");
    let on = |budget| minilm.on(Arc::<Wgpu>::clone(&wgpu), config(DType::F32, budget));
    let embed = |model: &Managed<Bert>| model.run(|m, fwd| m.embed(fwd, &ids)).unwrap();
    let resident = embed(&on(u64::MAX));
    let worst = resident.iter().flatten().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0f32, f32::max);
    println!("MiniLM on {}, f32: largest error {worst:.2e}", wgpu.info().name);
    assert!(worst < 2e-5, "{worst}");
    let smallest = on(0).minimum_budget(|m, fwd| m.embed(fwd, &ids)).unwrap();
    let model = on(smallest);
    for pass in 0..2 {
        assert!(embed(&model) == resident, "budget {smallest}, pass {pass}");
    }
    assert!(model.report().peak_bytes <= smallest);
}

/// The real model, and token ids of the sentences whose embeddings are known.
struct MiniLm {
    source: Arc<dyn WeightSource>,
    json: String,
    ids: Vec<Vec<u32>>,
}

impl MiniLm {
    fn open() -> Option<MiniLm> {
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

    fn on(&self, device: Arc<dyn Kernels>, config: VramConfig) -> Managed<Bert> {
        let bert = bert::Config::read(&*self.source, &self.json).unwrap();
        let model = skip_init(|| Bert::new(&bert).unwrap());
        let source = Arc::clone(&self.source);
        enable_vram_management(model, source, device, &ModuleMap::standard(), config).unwrap()
    }
}
