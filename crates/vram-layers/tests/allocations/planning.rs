//! A plan of ten thousand units takes little memory and time. Once it took three seconds and
//! 132 MiB: the finest cut was built only to find its largest tile, and the search for what stays
//! had no limit.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Execution, Memory, Tier, Topology};
use vram_layers::{Costs, Engine, EngineOptions, Error, LayerId, LayerSpec, Link, Setting, Split, check};
use vram_types::{
    DType, FileId, FileRange, Located, ReadOptions, ReadRequest, SourceError, SourceErrorKind, StorageId,
    TensorMeta, WeightSource,
};

use crate::{held, peak_of};

const UNITS: usize = 10_000;

/// Matrices of a few megabytes and of different sizes, one after the other in a file that is never read.
struct Unread(Vec<(String, TensorMeta, u64)>);

impl Unread {
    fn new() -> Unread {
        let mut state = 1u64;
        let mut offset = 0;
        let tensor = |i| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let rows = 64 + (state >> 33) as usize % 1024;
            let meta = TensorMeta::new(DType::BF16, [rows, 3000]).unwrap();
            let at = offset;
            offset += meta.bytes();
            (format!("layers.{i}.weight"), meta, at)
        };
        Unread((0..UNITS).map(tensor).collect())
    }
}

impl WeightSource for Unread {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.0.iter().map(|(name, ..)| name.as_str()))
    }
    fn locate(&self, name: &str) -> Option<Located> {
        let i: usize = name.strip_prefix("layers.")?.strip_suffix(".weight")?.parse().ok()?;
        let (_, meta, offset) = self.0.get(i)?;
        let range = FileRange { file: FileId(0), offset: *offset, bytes: meta.bytes() };
        let storage = StorageId { file: range.file, offset: range.offset };
        Some(Located::new(meta.clone(), storage, [range]))
    }
    fn describe(&self, _: FileId) -> Option<Cow<'_, str>> {
        None
    }
    fn read_many(&self, _: &mut [ReadRequest<'_>], _: &ReadOptions) -> Result<(), SourceError> {
        Err(SourceError::new(SourceErrorKind::Unsupported, "nothing is read here"))
    }
    fn alignment(&self) -> u64 {
        4096
    }
    fn bytes_read(&self) -> u64 {
        0
    }
}

/// Bytes that planning may hold at once, and how long it may take here, beside other tests and
/// with little optimisation. A release build takes 0.15 s.
const MOST: u64 = 48 << 20;
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn a_plan_of_ten_thousand_units_is_small_and_quick() {
    let source = Arc::new(Unread::new());
    let specs =
        source.0.iter().map(|(name, ..)| LayerSpec::new(name.clone(), [name.clone()], Split::Rows)).collect();
    let cpu = Arc::new(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap());
    let options = EngineOptions { readers: 1, ..EngineOptions::new(Budget::new(Tier::Device, u64::MAX)) };
    let engine = Engine::new(source, cpu, specs, options).unwrap();
    let (all, trace) = (engine.weights_bytes(), (0..UNITS).map(LayerId).collect::<Vec<_>>());
    for memory in [Memory::Shared, Memory::Discrete] {
        // From a disk that is faster than the kernels to one that is not.
        for disk in [20e9, 10e9, 3e9] {
            for percent in [1, 20, 60, 95] {
                let setting = Setting {
                    topology: Topology { memory, kernels: Execution::Queued, separate_copy_queue: true },
                    budget: all / 100 * percent,
                    host_budget: all / 5,
                    staging: 64 << 20,
                    host_weights: true,
                };
                let mut costs = Costs::assumed(engine_bytes(&engine));
                costs.disk = Link { bytes_per_second: disk, latency_seconds: 50e-6 };
                let (before, since) = (held(), Instant::now());
                let (plan, peak) = peak_of(|| engine.plan_for(&setting, &costs, 8 << 20, &trace));
                let took = since.elapsed();
                let plan = plan.unwrap_or_else(|e: Error| panic!("{e}"));
                println!(
                    "{memory} memory, disk {:>2} GB/s, {percent:>2} %: {} units, {:>6.1} ms, {:>5.1} MiB at most, {:.4} of the bound",
                    disk / 1e9,
                    plan.units.len(),
                    took.as_secs_f64() * 1e3,
                    (peak - before) as f64 / f64::from(1 << 20),
                    plan.pass_seconds / plan.bound_seconds
                );
                assert!(plan.units.len() >= UNITS);
                assert_eq!(check(&plan), Ok(()));
                assert!(peak - before <= MOST, "{} bytes", peak - before);
                assert!(took <= LONGEST, "{took:?}");
                assert!(plan.pass_seconds <= 1.01 * plan.bound_seconds, "units are many and small");
            }
        }
    }
}

fn engine_bytes(engine: &Engine) -> impl Iterator<Item = u64> {
    let each = engine.weights_bytes() / engine.layers() as u64;
    (0..engine.layers()).map(move |_| each)
}
