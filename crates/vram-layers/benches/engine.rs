//! What the engine itself costs: planning, a pass over residents, and a streamed pass beside a copy of its bytes.
//!
//! `cargo bench -p vram-layers`. No kernel runs, and weights come from memory, so that nothing but the engine is seen.

#![allow(missing_docs)] // criterion's macro makes a public function

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Queue, Tier};
use vram_layers::{Engine, EngineOptions, Error, LayerId, LayerSpec, PassRequest, Split};
use vram_types::{
    DType, FileId, FileRange, Located, ReadOptions, ReadRequest, ReadTarget, SourceError, SourceErrorKind,
    StorageId, TensorMeta, WeightSource,
};

const NEVER: &str = "the source has the tensors, and the budget is large enough";
const ACTIVATIONS: u64 = 8 << 20;

/// Matrices one after the other in one file, whose bytes are in memory.
struct Memory {
    tensors: Vec<(String, FileRange, TensorMeta)>,
    /// The bytes, over and over; nothing is copied if there are none, as where only the plan is of interest.
    bytes: Vec<u8>,
    read: AtomicU64,
}

impl Memory {
    fn new(shapes: impl IntoIterator<Item = [usize; 2]>, bytes: Vec<u8>) -> Memory {
        let mut offset = 0;
        let tensor = |(i, shape): (usize, [usize; 2])| {
            let meta = TensorMeta::new(DType::BF16, shape).expect("a shape that has a size");
            let range = FileRange { file: FileId(0), offset, bytes: meta.bytes() };
            offset = range.end();
            (format!("layers.{i}.weight"), range, meta)
        };
        let tensors = shapes.into_iter().enumerate().map(tensor).collect();
        Memory { tensors, bytes, read: AtomicU64::new(0) }
    }

    fn specs(&self) -> Vec<LayerSpec> {
        let spec = |(name, _, meta): &(String, FileRange, TensorMeta)| {
            let split = if meta.shape().first() == Some(&1) { Split::Whole } else { Split::Rows };
            LayerSpec::new(name.clone(), [name.clone()], split)
        };
        self.tensors.iter().map(spec).collect()
    }
}

impl WeightSource for Memory {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.tensors.iter().map(|(name, ..)| name.as_str()))
    }

    fn locate(&self, name: &str) -> Option<Located> {
        let (_, range, meta) = self.tensors.iter().find(|(n, ..)| n == name)?;
        let storage = StorageId { file: range.file, offset: range.offset };
        Some(Located::new(meta.clone(), storage, [*range]))
    }

    fn describe(&self, _: FileId) -> Option<Cow<'_, str>> {
        None
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        for request in requests {
            options.check()?;
            let ReadTarget::File { offset, .. } = request.target else {
                return Err(SourceError::new(SourceErrorKind::Unsupported, "read by ranges only"));
            };
            self.read.fetch_add(request.bytes, Ordering::Relaxed);
            let to = request.wanted()?;
            if let Some(at) = (offset as usize).checked_rem(self.bytes.len()) {
                let (first, rest) = to.split_at_mut(to.len().min(self.bytes.len() - at));
                first.copy_from_slice(&self.bytes[at..at + first.len()]);
                rest.copy_from_slice(&self.bytes[..rest.len()]);
            }
        }
        Ok(())
    }

    fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

fn engine(source: Memory, budget: &Budget, residents: bool) -> Engine {
    let cpu = Cpu::new(CpuOptions { threads: Some(1), ..Default::default() }).expect("a CPU device");
    let options = EngineOptions { residents, ..EngineOptions::new(budget.clone()) };
    let specs = source.specs();
    Engine::new(Arc::new(source), Arc::new(cpu), specs, options).expect(NEVER)
}

fn unlimited() -> Budget {
    Budget::new(Tier::Device, u64::MAX)
}

fn trace(engine: &Engine) -> Vec<LayerId> {
    (0..engine.layers()).map(LayerId).collect()
}

/// Leases everything once and does nothing with it.
fn pass(engine: &Engine, trace: &[LayerId], last: bool) -> Result<u64, Error> {
    let request = PassRequest { trace: Some(trace.to_vec()), last, ..PassRequest::default() };
    let mut pass = engine.begin(request)?;
    for &layer in trace {
        for tile in 0..pass.tiles(layer) {
            let lease = pass.lease(layer, tile)?;
            black_box(&lease);
            lease.finish(pass.device().ticket(Queue::Compute)?);
        }
    }
    Ok(pass.finish()?.device_bytes)
}

fn short(group: &mut BenchmarkGroup<'_, WallTime>) {
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
}

/// 60 blocks of two norms and four matrices of 3072 x 3072, 4.5 GB that nobody reads.
fn planning(c: &mut Criterion) {
    let norm = [1, 3072];
    let matrix = [3072, 3072];
    let shapes = [norm, norm, matrix, matrix, matrix, matrix].into_iter().cycle().take(60 * 6);
    let budget = unlimited();
    let engine = engine(Memory::new(shapes, Vec::new()), &budget, true);
    let (weights, trace) = (engine.weights_bytes(), trace(&engine));
    let mut group = c.benchmark_group("plan, 60 blocks of 6 layers");
    short(&mut group);
    group.bench_function("smallest budget", |b| {
        b.iter(|| engine.minimum_budget(black_box(ACTIVATIONS), &trace).expect(NEVER));
    });
    // A plan is kept while nothing changes, so each time the budget is another: a plan, its ring and its residents.
    for percent in [5, 25, 50, 95, 101] {
        let limit = ACTIVATIONS + weights / 100 * percent;
        let mut less = 0;
        group.bench_function(BenchmarkId::new("admit a pass, budget", format!("{percent} %")), |b| {
            b.iter(|| {
                less = 1 - less;
                budget.set_limit(limit - less);
                let trace = Some(trace.clone());
                let request = PassRequest { workspace: ACTIVATIONS, trace, last: true, ..Default::default() };
                drop(engine.begin(request).expect(NEVER));
            });
        });
    }
    group.finish();
}

/// 360 layers of 2 KiB, all resident: begin, 360 leases, finish.
fn resident(c: &mut Criterion) {
    let budget = unlimited();
    let engine = engine(Memory::new([[1, 1024]; 360], vec![0x3c; 1 << 20]), &budget, true);
    let trace = trace(&engine);
    assert_ne!(pass(&engine, &trace, false).expect(NEVER), 0);
    assert_eq!(pass(&engine, &trace, false).expect(NEVER), 0);
    let mut group = c.benchmark_group("resident pass that computes nothing");
    short(&mut group);
    group.throughput(Throughput::Elements(trace.len() as u64));
    group.bench_function("360 units", |b| b.iter(|| pass(&engine, &trace, false).expect(NEVER)));
    group.finish();
}

/// 60 layers of 1 MiB through a ring of 8 MiB, beside a copy of as many bytes into 8 MiB on this thread.
fn streamed(c: &mut Criterion) {
    const LAYER: usize = 1 << 20;
    const RING: usize = 8 << 20;
    let shapes = [[512, LAYER / 1024]; 60];
    let bytes = vec![0x3c; shapes.len() * LAYER];
    let mut group = c.benchmark_group("streamed pass that computes nothing");
    short(&mut group);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let mut ring = vec![0u8; RING];
    group.bench_function("copy of the bytes", |b| {
        b.iter(|| {
            for chunk in bytes.chunks(RING) {
                ring[..chunk.len()].copy_from_slice(black_box(chunk));
            }
        });
    });
    let budget = Budget::new(Tier::Device, RING as u64);
    let engine = engine(Memory::new(shapes, bytes), &budget, false);
    let trace = trace(&engine);
    group.bench_function("60 layers of 1 MiB", |b| {
        b.iter(|| {
            let moved = pass(&engine, &trace, true).expect(NEVER);
            assert_eq!(moved, engine.weights_bytes());
        });
    });
    group.finish();
}

criterion_group!(benches, planning, resident, streamed);
criterion_main!(benches);
