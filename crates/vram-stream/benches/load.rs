//! Loads a cached checkpoint of 64 MiB onto a device with one call, compared with one read of the
//! whole file.
//!
//! `cargo bench -p vram-stream`

#![allow(missing_docs)] // criterion's macro makes a public function

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vram_stream::diskmap::SafetensorsWriter;
use vram_stream::{Budget, Cpu, CpuOptions, DType, TensorMeta, Tier, load_to_device};

const TENSORS: usize = 32;
const SHAPE: [usize; 2] = [1024, 1024];

/// 32 tensors of 2 MiB.
fn checkpoint(folder: &Path) -> PathBuf {
    let path = folder.join("model.safetensors");
    let meta = TensorMeta::new(DType::BF16, SHAPE).expect("a shape that has a size");
    let tensors = (0..TENSORS).map(|i| (format!("layers.{i}.weight"), meta.clone()));
    let mut writer = SafetensorsWriter::create(&path, tensors, &[]).expect("a file in the target folder");
    let bytes = vec![0x3c; writer.remaining() as usize];
    writer.write(&bytes).and_then(|()| writer.finish()).expect("a file in the target folder");
    path
}

fn load(c: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = checkpoint(folder.path());
    let cpu = |discrete| Cpu::new(CpuOptions { discrete, ..Default::default() }).expect("a CPU device");
    let (here, apart) = (cpu(false), cpu(true));
    let mut group = c.benchmark_group("load 64 MiB");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes((TENSORS as u64) << 21));
    group.bench_function("bare read", |b| {
        b.iter(|| std::fs::read(black_box(&path)).expect("the file is there"));
    });
    for (name, device, dtype) in [
        ("in place", &here, None),
        ("staged", &apart, None),
        ("in place, BF16 to F32", &here, Some(DType::F32)),
        ("staged, BF16 to F32", &apart, Some(DType::F32)),
    ] {
        let budget = Budget::new(Tier::Device, 128 << 20);
        group.bench_function(name, |b| {
            b.iter(|| load_to_device(&path, device, dtype, &budget).expect("the file is there, and it fits"));
        });
    }
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);
