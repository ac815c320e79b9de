use std::sync::Arc;

use vram_alloc::skip_init;
use vram_device::Kernels;
use vram_device::cpu::{Cpu, CpuOptions};
use vram_diskmap::{DiskMap, SafetensorsWriter};
use vram_layers::{Managed, ModuleMap, Split, VramConfig, enable_vram_management};
use vram_models::controlnet::{Block, Config, ControlNet, Guidance, Inputs};
use vram_types::cast::cast;
use vram_types::{DType, WeightSource};

use crate::common::{config, cpu, f32s, golden, read_f32, relative_l2};

pub(crate) fn managed(
    source: Arc<dyn WeightSource>,
    device: Arc<dyn Kernels>,
    map: &ModuleMap,
    config: VramConfig,
) -> Managed<ControlNet> {
    let model = skip_init(|| ControlNet::new(&Config::read(&*source).unwrap()).unwrap());
    enable_vram_management(model, source, device, map, config).unwrap()
}

/// The inputs that the golden output was computed from.
pub(crate) fn with_inputs<R>(f: impl FnOnce(&Inputs<'_>) -> R) -> R {
    let io = DiskMap::open(golden("controlnet_small_io.safetensors")).unwrap();
    let (img, conditioning) = (io.get("img").unwrap(), io.get("conditioning").unwrap());
    f(&Inputs {
        img: (img.bytes(), img.meta().clone()),
        conditioning: (conditioning.bytes(), conditioning.meta().clone()),
    })
}

pub(crate) fn output(model: &Managed<ControlNet>) -> Vec<u8> {
    with_inputs(|inputs| model.run(|m, fwd| m.forward(fwd, inputs)).unwrap())
}

fn minimum(source: &Arc<dyn WeightSource>, dtype: DType) -> u64 {
    let model = managed(Arc::clone(source), cpu(), &ModuleMap::standard(), config(dtype, 0));
    with_inputs(|inputs| model.minimum_budget(|m, fwd| m.forward(fwd, inputs)).unwrap())
}

pub(crate) fn widen(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut wide = vec![0; bytes.len() * 4 / (dtype.bits() as usize / 8)];
    cast(bytes, dtype, &mut wide, DType::F32).unwrap();
    f32s(&wide)
}

/// One file, and the same tensors in three shards with an index.
fn sources(dir: &std::path::Path) -> Vec<Arc<dyn WeightSource>> {
    let file = golden("controlnet_small.safetensors");
    let whole = DiskMap::open(&file).unwrap();
    let names: Vec<&str> = whole.iter().map(|(name, _)| name).collect();
    let mut index = serde_json::Map::new();
    for shard in 0..3 {
        let shard_name = format!("model-{:05}-of-00003.safetensors", shard + 1);
        let own: Vec<&str> = names.iter().copied().skip(shard).step_by(3).collect();
        let tensors = own.iter().map(|n| (*n, whole.tensor(n).unwrap().meta().clone())).collect::<Vec<_>>();
        let mut writer = SafetensorsWriter::create(dir.join(&shard_name), tensors, &[]).unwrap();
        for name in own {
            writer.write(whole.get(name).unwrap().bytes()).unwrap();
            index.insert(name.to_owned(), shard_name.clone().into());
        }
        writer.finish().unwrap();
    }
    let json = serde_json::json!({"metadata": {"total_size": 0}, "weight_map": index});
    std::fs::write(dir.join("model.safetensors.index.json"), json.to_string()).unwrap();
    // SAFETY: nobody writes the repository's golden file while the test runs.
    let mapped = unsafe { DiskMap::open_mapped(&file).unwrap() };
    vec![Arc::new(whole), Arc::new(DiskMap::open(dir).unwrap()), Arc::new(mapped)]
}

#[test]
fn equals_pytorch_and_no_budget_or_source_changes_a_bit() {
    let io = DiskMap::open(golden("controlnet_small_io.safetensors")).unwrap();
    let expected = read_f32(&io, "expected.f32");
    let dir = tempfile::tempdir().unwrap();
    let sources = sources(dir.path());
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1.5e-2)] {
        let standard = ModuleMap::standard();
        let resident = output(&managed(Arc::clone(&sources[0]), cpu(), &standard, config(dtype, 1 << 30)));
        let error = relative_l2(&widen(dtype, &resident), &expected);
        println!("controlnet, {dtype}: relative L2 error {error:.2e}");
        assert!(error < tolerance, "{dtype}: {error}");
        for source in &sources {
            let minimum = minimum(source, dtype);
            for (budget, map) in [
                (minimum, ModuleMap::standard()),
                (minimum + (200 << 10), ModuleMap::standard()),
                (1 << 20, ModuleMap::standard().wrap::<Block>()),
                (minimum + (600 << 10), ModuleMap::standard().layer::<Block>(Split::Whole)),
            ] {
                let model = managed(Arc::clone(source), cpu(), &map, config(dtype, budget));
                for pass in 0..3 {
                    assert!(output(&model) == resident, "{dtype}, budget {budget}, pass {pass}");
                }
                let report = model.report();
                assert!(report.peak_bytes <= budget, "{report:?}");
                let (first, second) = (report.passes[0].disk_bytes, report.passes[1].disk_bytes);
                assert!(
                    if report.resident_bytes > 0 { second < first } else { second == first },
                    "residents move once: {report:?}"
                );
            }
        }
    }
}

#[test]
fn staged_copies_give_the_same_bits_as_reads_in_place() {
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    let map = ModuleMap::standard();
    let resident = output(&managed(Arc::clone(&source), cpu(), &map, config(DType::F32, 1 << 30)));
    let discrete: Arc<dyn Kernels> =
        Arc::new(Cpu::new(CpuOptions { discrete: true, ..Default::default() }).unwrap());
    let mut config = config(DType::F32, 1 << 20);
    config.host_limit = vram_device::Budget::new(vram_device::Tier::Host, 256 << 10);
    let host = config.host_limit.clone();
    let model = managed(source, discrete, &map, config);
    for _ in 0..3 {
        assert!(output(&model) == resident);
    }
    assert!(host.used() > 0 && host.peak() <= 256 << 10);
}

#[test]
fn a_budget_below_the_minimum_says_what_would_do() {
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    let minimum = minimum(&source, DType::BF16);
    let model = managed(Arc::clone(&source), cpu(), &ModuleMap::standard(), config(DType::BF16, minimum - 1));
    let error = with_inputs(|inputs| model.run(|m, fwd| m.forward(fwd, inputs)).unwrap_err());
    assert!(error.is_oom());
    assert!(error.to_string().contains(&format!("the smallest that works is {minimum} bytes")), "{error}");
}

#[test]
fn blocks_called_one_by_one_are_the_chained_pass_and_a_scale_scales_what_they_add() {
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    let model = managed(source, cpu(), &ModuleMap::standard(), config(DType::F32, 1 << 20));
    let guided = |scale: f32, blocks: usize| -> Vec<f32> {
        let guidance = Guidance { scale, ..Guidance::default() };
        let run = |inputs: &Inputs<'_>| {
            model.run(|model, fwd| {
                let conditioning = fwd.input(inputs.conditioning.0, &inputs.conditioning.1)?;
                let y = model.condition(fwd, &conditioning)?;
                let mut z = fwd.input(inputs.img.0, &inputs.img.1)?;
                for index in 0..blocks {
                    model.guide(fwd, &guidance, index, &mut z, &y)?;
                }
                fwd.download(&z)
            })
        };
        f32s(&with_inputs(run).unwrap())
    };
    let blocks = model.model().blocks();
    assert!(guided(1.0, blocks) == f32s(&output(&model)));
    let (none, half, whole) = (guided(1.0, 0), guided(0.5, 1), guided(1.0, 1));
    for ((none, half), whole) in none.iter().zip(&half).zip(&whole) {
        assert!((half - none - (whole - none) / 2.0).abs() <= 1e-6 * (1.0 + whole.abs()), "{half}");
    }
    let beyond = with_inputs(|inputs| {
        model.run(|model, fwd| {
            let z = fwd.input(inputs.img.0, &inputs.img.1)?;
            model.block(fwd, blocks, &z, &z).map(drop)
        })
    });
    assert!(beyond.unwrap_err().to_string().contains("has no block"));
}
