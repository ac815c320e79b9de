//! Passes of a small ControlNet (8 blocks of width 512, 8.5 MB of bf16) over a file in the page cache, fully resident and
//! streamed under two budgets.
//!
//! `cargo bench -p vram-models`. `cargo xtask bench` measures the 2.27 GB one beside the machine's limits.

#![allow(missing_docs)] // criterion's macro makes a public function

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vram_alloc::{Parameter, Visitor, skip_init, walk};
use vram_device::cpu::Cpu;
use vram_device::{Budget, Tier};
use vram_diskmap::{DiskMap, SafetensorsWriter};
use vram_layers::{Error, Managed, ModuleMap, VramConfig, enable_vram_management};
use vram_models::controlnet::{Config, ControlNet, Inputs};
use vram_types::{DType, TensorMeta};

const CONFIG: Config = Config { blocks: 8, width: 512, inputs: 64, dtype: DType::BF16 };
const NEVER: &str = "the checkpoint is the model's own, and the budget is large enough";

fn model() -> ControlNet {
    skip_init(|| ControlNet::new(&CONFIG)).expect("parameters without storage")
}

struct Metas(Vec<(String, TensorMeta)>);

impl<'a> Visitor<'a> for Metas {
    fn parameter(&mut self, path: &vram_alloc::Path, parameter: &'a Parameter) {
        self.0.push((path.to_string(), parameter.meta().clone()));
    }
}

/// A checkpoint of the model in which every weight is 1/128 or -1/128.
fn checkpoint(folder: &Path) -> Arc<DiskMap> {
    let mut metas = Metas(Vec::new());
    walk(&model(), &mut metas);
    let path = folder.join("controlnet.safetensors");
    let mut writer = SafetensorsWriter::create(&path, metas.0, &[]).expect("a file in the target folder");
    let weights = writer.remaining() / 2;
    let sign = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63) as u16;
    let noise: Vec<u8> = (0..weights).flat_map(|i| (0x3c00 | sign(i) << 15).to_le_bytes()).collect();
    writer.write(&noise).and_then(|()| writer.finish()).expect("a file in the target folder");
    Arc::new(DiskMap::open(path).expect("what was just written"))
}

struct Activations {
    img: (Vec<u8>, TensorMeta),
    conditioning: (Vec<u8>, TensorMeta),
}

impl Activations {
    fn new(tokens: usize) -> Activations {
        let tensor = |width: usize| {
            let meta = TensorMeta::new(DType::F32, [1, tokens, width]).expect("a shape that has a size");
            let value = |i: usize| ((i * 37 % 101) as f32 / 50.0 - 1.0).to_le_bytes();
            ((0..tokens * width).flat_map(value).collect(), meta)
        };
        Activations { img: tensor(CONFIG.width), conditioning: tensor(CONFIG.inputs) }
    }

    fn pass(&self, model: &Managed<ControlNet>) -> Result<Vec<u8>, Error> {
        let inputs = Inputs {
            img: (&self.img.0, self.img.1.clone()),
            conditioning: (&self.conditioning.0, self.conditioning.1.clone()),
        };
        model.run(|m, fwd| m.forward(fwd, &inputs))
    }
}

fn passes(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let source = checkpoint(folder.path());
    let cpu = Arc::new(Cpu::new(Default::default()).expect("a CPU device"));
    let mut group = c.benchmark_group("controlnet 8x512");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    for tokens in [16, 256] {
        let activations = Activations::new(tokens);
        let mut expected = None;
        for (name, budget) in [("resident", u64::MAX), ("6 MiB", 6 << 20), ("4 MiB", 4 << 20)] {
            let config = VramConfig::disk(DType::BF16, Budget::new(Tier::Device, budget));
            let from = Arc::<DiskMap>::clone(&source);
            let device = Arc::<Cpu>::clone(&cpu);
            let model =
                enable_vram_management(model(), from, device, &ModuleMap::standard(), config).expect(NEVER);
            let output = activations.pass(&model).expect(NEVER);
            assert_eq!(expected.get_or_insert_with(|| output.clone()), &output, "the budget changes nothing");
            group.throughput(Throughput::Bytes(model.engine().weights_bytes()));
            group.bench_function(BenchmarkId::new(format!("{tokens} tokens"), name), |b| {
                b.iter(|| activations.pass(&model).expect(NEVER));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, passes);
criterion_main!(benches);
