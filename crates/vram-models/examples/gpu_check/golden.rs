//! Models whose outputs are known: near to PyTorch, and the same bits resident, at the smallest budget and between.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use vram_alloc::skip_init;
use vram_device::{Budget, Kernels, Tier};
use vram_diskmap::DiskMap;
use vram_layers::{Managed, ModuleMap, VramConfig, enable_vram_management};
use vram_models::bert::{self, Bert};
use vram_models::controlnet::{Config, ControlNet, Inputs};
use vram_types::cast::cast;
use vram_types::{DType, WeightSource};

use crate::Outcome;
use crate::watch::most_taken;

const WEIGHTS: &[u8] = include_bytes!("../../tests/golden/controlnet_small.safetensors");
const IO: &[u8] = include_bytes!("../../tests/golden/controlnet_small_io.safetensors");
const MINILM_IDS: &str = include_str!("../../tests/golden/minilm.json");
const MINILM: &[u8] = include_bytes!("../../tests/golden/minilm_embeddings.safetensors");

/// By how much a driver may round up each allocation, and how many a small model makes at most: residents, a ring, a workspace.
const ROUNDING: u64 = (2 << 20) * 64;

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn read(map: &DiskMap, name: &str) -> Outcome<Vec<f32>> {
    Ok(f32s(map.get(name)?.bytes()))
}

/// Embedded bytes as a file, for the disk map to read.
fn file(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> Outcome<DiskMap> {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes)?;
    Ok(DiskMap::open(path)?)
}

fn relative_l2(actual: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = actual.iter().zip(expected).map(|(a, e)| square(f64::from(*a) - f64::from(*e))).sum();
    let norm: f64 = expected.iter().map(|e| square(f64::from(*e))).sum();
    (error / norm).sqrt()
}

/// Weights on disk, or in host memory between passes.
fn places(dtype: DType, bytes: u64) -> [(&'static str, VramConfig); 2] {
    let (device, host) = (Budget::new(Tier::Device, bytes), Budget::new(Tier::Host, 1 << 30));
    [
        ("disk", VramConfig::disk(dtype, Budget::new(Tier::Device, bytes))),
        ("host", VramConfig::host(dtype, device, host)),
    ]
}

/// The small ControlNet, which is in this binary, in three dtypes.
pub(crate) fn controlnet(device: &Arc<dyn Kernels>) -> Outcome<(Value, bool)> {
    let folder = tempfile::tempdir()?;
    let io = file(&folder, "io.safetensors", IO)?;
    let source: Arc<dyn WeightSource> = Arc::new(file(&folder, "weights.safetensors", WEIGHTS)?);
    let (img, conditioning) = (io.get("img")?, io.get("conditioning")?);
    let inputs = Inputs {
        img: (img.bytes(), img.meta().clone()),
        conditioning: (conditioning.bytes(), conditioning.meta().clone()),
    };
    let expected = read(&io, "expected.f32")?;
    let on = |config: VramConfig| -> Outcome<Managed<ControlNet>> {
        let shapes = Config::read(&*source)?;
        let model = skip_init(|| ControlNet::new(&shapes))?;
        let (source, device) = (Arc::clone(&source), Arc::clone(device));
        Ok(enable_vram_management(model, source, device, &ModuleMap::standard(), config)?)
    };
    let run = |model: &Managed<ControlNet>| model.run(|m, fwd| m.forward(fwd, &inputs));
    let (mut all, mut passed) = (Vec::new(), true);
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 2e-3), (DType::BF16, 1.5e-2)] {
        let resident = run(&on(places(dtype, 1 << 30)[0].1.clone())?)?;
        let mut wide = vec![0; resident.len() * 32 / dtype.bits() as usize];
        cast(&resident, dtype, &mut wide, DType::F32)?;
        let error = relative_l2(&f32s(&wide), &expected);
        let smallest = on(places(dtype, 0)[0].1.clone())?.minimum_budget(|m, fwd| m.forward(fwd, &inputs))?;
        let mut budgets = Vec::new();
        for budget in [smallest, smallest + (200 << 10), 64 << 20] {
            for (place, config) in places(dtype, budget) {
                let work = || -> Outcome<(bool, u64)> {
                    let model = on(config)?;
                    let mut same = true;
                    for _ in 0..3 {
                        same &= run(&model)? == resident;
                    }
                    Ok((same, model.report().peak_bytes))
                };
                let (result, taken) = most_taken(&**device, work)?;
                let (same, peak) = result?;
                let within = peak <= budget && taken.is_none_or(|taken| taken <= budget + ROUNDING);
                passed &= same && within;
                budgets.push(json!({
                    "budget_bytes": budget, "weights_on": place, "same_bits_as_resident": same,
                    "peak_bytes": peak, "taken_from_card_bytes": taken, "within": within,
                }));
            }
        }
        passed &= error < tolerance;
        eprintln!("controlnet {dtype}: relative L2 error {error:.2e}, smallest budget {smallest}");
        all.push(json!({
            "dtype": dtype.to_string(), "relative_l2": error, "tolerance": tolerance,
            "smallest_budget_bytes": smallest, "budgets": budgets,
        }));
    }
    Ok((Value::Array(all), passed))
}

/// The real sentence encoder, if its folder is given.
pub(crate) fn minilm(device: &Arc<dyn Kernels>, folder: Option<&Path>) -> Outcome<(Value, bool)> {
    let Some(model_folder) = folder else {
        return Ok((json!({ "skipped": "no --minilm FOLDER was given" }), true));
    };
    let scratch = tempfile::tempdir()?;
    let expected = read(&file(&scratch, "embeddings.safetensors", MINILM)?, "embeddings")?;
    let json: Value = serde_json::from_str(MINILM_IDS)?;
    let ids: Vec<Vec<u32>> = serde_json::from_value(json["token_ids"].clone())?;
    let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let config = std::fs::read_to_string(model_folder.join("config.json"))?;
    let source: Arc<dyn WeightSource> = Arc::new(DiskMap::open(model_folder.join("model.safetensors"))?);
    let on = |budget: u64| -> Outcome<Managed<Bert>> {
        let shapes = bert::Config::read(&*source, &config)?;
        let model = skip_init(|| Bert::new(&shapes))?;
        let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, budget));
        let (source, device) = (Arc::clone(&source), Arc::clone(device));
        Ok(enable_vram_management(model, source, device, &ModuleMap::standard(), config)?)
    };
    let embed = |model: &Managed<Bert>| model.run(|m, fwd| m.embed(fwd, &ids));
    let resident = embed(&on(8 << 30)?)?;
    let worst = resident.iter().flatten().zip(&expected).map(|(a, e)| (a - e).abs()).fold(0f32, f32::max);
    let smallest = on(0)?.minimum_budget(|m, fwd| m.embed(fwd, &ids))?;
    let model = on(smallest)?;
    let same = (0..2).map(|_| Ok(embed(&model)? == resident)).collect::<Outcome<Vec<bool>>>()?;
    let peak = model.report().peak_bytes;
    let passed = worst < 2e-5 && !same.contains(&false) && peak <= smallest;
    let found = json!({
        "largest_error": worst, "smallest_budget_bytes": smallest, "same_bits_as_resident": same, "peak_bytes": peak,
    });
    Ok((found, passed))
}
