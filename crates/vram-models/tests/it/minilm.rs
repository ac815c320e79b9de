use std::path::PathBuf;
use std::sync::Arc;

use vram_alloc::skip_init;
use vram_device::Kernels;
use vram_diskmap::DiskMap;
use vram_layers::{Managed, ModuleMap, VramConfig, enable_vram_management};
use vram_models::bert::{Bert, Config};
use vram_types::{DType, WeightSource};

use crate::common::{config, cpu, golden, read_f32};

/// The folder with the real model, if `cargo xtask models` has fetched it.
fn folder() -> Option<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let places =
        [std::env::var_os("VRAM_MINILM").map(PathBuf::from), Some(root.join("target/models/minilm"))];
    places.into_iter().flatten().find(|p| p.join("model.safetensors").exists())
}

/// Token ids of the sentences whose embeddings are known.
fn golden_ids() -> Vec<Vec<u32>> {
    let json = std::fs::read_to_string(golden("minilm.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    serde_json::from_value(json["token_ids"].clone()).unwrap()
}

/// The real model, and token ids of the sentences whose embeddings are known.
pub(crate) struct MiniLm {
    source: Arc<dyn WeightSource>,
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
        let bert = Config::read(&*self.source, &self.json).unwrap();
        let model = skip_init(|| Bert::new(&bert).unwrap());
        let source = Arc::clone(&self.source);
        enable_vram_management(model, source, device, &ModuleMap::standard(), config).unwrap()
    }
}

#[test]
fn equals_pytorch_at_every_budget() {
    let Some(minilm) = MiniLm::open() else { return };
    let ids: Vec<&[u32]> = minilm.ids.iter().map(Vec::as_slice).collect();
    let expected = read_f32(&DiskMap::open(golden("minilm_embeddings.safetensors")).unwrap(), "embeddings");

    let managed = |budget| minilm.on(cpu(), config(DType::F32, budget));
    let embed = |model: &Managed<Bert>| model.run(|m, fwd| m.embed(fwd, &ids)).unwrap();
    let weights = managed(0).engine().weights_bytes();
    let minimum = managed(0).minimum_budget(|m, fwd| m.embed(fwd, &ids)).unwrap();

    let unlimited = managed(u64::MAX);
    let reference = embed(&unlimited);
    let worst = reference.iter().flatten().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0f32, f32::max);
    println!("MiniLM, f32: largest error {worst:.2e}; smallest budget {minimum} bytes of {weights}");
    assert_eq!(reference.iter().map(Vec::len).sum::<usize>(), expected.len());
    assert!(worst < 2e-5, "{worst}");
    let workspace = unlimited.report().workspace_bytes;
    assert!(minimum <= workspace + (8 << 20), "{minimum} with {workspace} of activations");

    for budget in [minimum, weights / 4, weights / 2] {
        let model = managed(budget);
        for pass in 0..2 {
            assert!(embed(&model) == reference, "budget {budget}, pass {pass}");
        }
        assert!(model.report().peak_bytes <= budget);
    }
    // A sentence gets the bits that it gets alone.
    for (i, ids) in ids.iter().enumerate() {
        let alone = unlimited.run(|m, fwd| m.embed(fwd, &[ids])).unwrap();
        assert!(alone[0] == reference[i], "sentence {i}");
    }
}
