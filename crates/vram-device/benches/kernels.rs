//! Each kernel of the CPU through the trait that layers call, on 256 rows of width 3072 where it says nothing else.
//!
//! Throughput of a linear layer counts its multiplications and additions (`elem/s` is FLOP/s), that of the others the
//! bytes read and written. `--bench linear` sets linear layers beside the machine's own limits.
//!
//! `cargo bench -p vram-device --bench kernels`

#![allow(missing_docs)] // criterion's macro makes a public function

use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use criterion::{BenchmarkId, measurement::WallTime};
use vram_device::cpu::Cpu;
use vram_device::{
    Budget, Device, DeviceError, Kernels, KernelsExt, Lifetime, Region, Tier, View, ViewMut, ops,
};
use vram_types::cast::cast;
use vram_types::{DType, TensorMeta};

const WIDTH: usize = 3072;
const ROWS: usize = 256;
const HEADS: usize = 24;
const COMPUTE: [DType; 2] = [DType::BF16, DType::F32];
const NEVER: &str = "the kernel takes these shapes, and the device has the memory";

/// A tensor of the device with small values.
struct Tensor {
    region: Region,
    meta: TensorMeta,
}

impl Tensor {
    fn new(cpu: &Cpu, dtype: DType, shape: &[usize]) -> Tensor {
        let meta = TensorMeta::new(dtype, shape).expect("a shape that has a size");
        let budget = Budget::new(Tier::Device, u64::MAX);
        let room = budget.reserve(Lifetime::Pass, meta.bytes()).expect("a budget without end");
        let mut region = cpu.allocate(room).expect(NEVER).into_region();
        fill(region.host_mut().expect("the CPU's memory is host-visible"), dtype);
        Tensor { region, meta }
    }

    fn view(&self) -> View<'_> {
        View::new(&self.region, 0, self.meta.clone()).expect("of its own size")
    }

    fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::new(&mut self.region, 0, self.meta.clone()).expect("of its own size")
    }
}

/// Values in -1/32 .. 1/32; bytes stay zero.
fn fill(bytes: &mut [u8], dtype: DType) {
    if dtype == DType::U8 {
        return;
    }
    let mut state = 1u32;
    let mut value = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) / 32.0
    };
    let wide: Vec<u8> =
        (0..bytes.len() * 8 / dtype.bits() as usize).flat_map(|_| value().to_le_bytes()).collect();
    cast(&wide, DType::F32, bytes, dtype).expect("floats become floats");
}

fn cpu() -> Cpu {
    Cpu::new(Default::default()).expect("a CPU device")
}

fn scratch<'a>(cpu: &Cpu, of: impl Into<ops::Op<'a>>) -> Tensor {
    Tensor::new(cpu, DType::U8, &[cpu.scratch(&of.into()) as usize])
}

/// Measures a kernel on the device's own pool, where a forward runs it.
fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    cpu: &Cpu,
    mut kernel: impl FnMut() -> Result<(), DeviceError> + Send,
) {
    group.bench_function(id, |b| {
        b.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            cpu.scope(&mut || {
                let start = std::time::Instant::now();
                (0..iterations).for_each(|_| kernel().expect(NEVER));
                took = start.elapsed();
            });
            took
        });
    });
}

fn short(group: &mut BenchmarkGroup<'_, WallTime>) {
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
}

fn linear(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = c.benchmark_group("linear");
    short(&mut group);
    for dtype in COMPUTE {
        let weight = Tensor::new(&cpu, dtype, &[WIDTH, WIDTH]);
        let bias = Tensor::new(&cpu, dtype, &[WIDTH]);
        for rows in [1, 16, ROWS] {
            let x = Tensor::new(&cpu, dtype, &[rows, WIDTH]);
            let mut y = Tensor::new(&cpu, dtype, &[rows, WIDTH]);
            let mut room = scratch(&cpu, ops::Linear::new(x.view(), weight.view(), y.view_mut()));
            group.throughput(Throughput::Elements((2 * rows * WIDTH * WIDTH) as u64));
            let id = BenchmarkId::new(dtype.name(), format!("{rows} rows"));
            measure(&mut group, id, &cpu, || {
                let op = ops::Linear::new(x.view(), weight.view(), y.view_mut());
                cpu.call(op.with_bias(Some(bias.view())), Some(&mut room.view_mut()))
            });
        }
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let cpu = cpu();
    for dtype in COMPUTE {
        let mut group = c.benchmark_group(format!("rows, {dtype}"));
        short(&mut group);
        let x = Tensor::new(&cpu, dtype, &[ROWS, WIDTH]);
        let mut y = Tensor::new(&cpu, dtype, &[ROWS, WIDTH]);
        let (weight, bias) = (Tensor::new(&cpu, dtype, &[WIDTH]), Tensor::new(&cpu, dtype, &[WIDTH]));
        group.throughput(Throughput::Bytes(2 * x.meta.bytes()));
        measure(&mut group, BenchmarkId::from_parameter("rms_norm"), &cpu, || {
            cpu.call(ops::RmsNorm::new(x.view(), weight.view(), 1e-6, y.view_mut()), None)
        });
        measure(&mut group, BenchmarkId::from_parameter("layer_norm"), &cpu, || {
            cpu.call(ops::LayerNorm::new(x.view(), weight.view(), bias.view(), 1e-6, y.view_mut()), None)
        });
        group.throughput(Throughput::Bytes(3 * x.meta.bytes()));
        measure(&mut group, BenchmarkId::from_parameter("add"), &cpu, || {
            cpu.call(ops::Binary::add(x.view(), y.view_mut()), None)
        });
        group.throughput(Throughput::Bytes(4 * x.meta.bytes()));
        // In place, and again and again on its own output the values would sink into denormals.
        measure(&mut group, BenchmarkId::from_parameter("copy and gelu"), &cpu, || {
            cpu.call(ops::Cast::new(x.view(), y.view_mut()), None)?;
            cpu.call(ops::Unary::gelu(y.view_mut()), None)
        });
        group.finish();
    }
}

fn attention(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = c.benchmark_group("attention");
    short(&mut group);
    for dtype in COMPUTE {
        let [q, k, v] = [(); 3].map(|()| Tensor::new(&cpu, dtype, &[ROWS, WIDTH]));
        let mut y = Tensor::new(&cpu, dtype, &[ROWS, WIDTH]);
        let mut room = scratch(&cpu, ops::Attention::new(q.view(), k.view(), v.view(), HEADS, y.view_mut()));
        group.throughput(Throughput::Elements((4 * ROWS * ROWS * WIDTH) as u64));
        let id = BenchmarkId::new(dtype.name(), format!("{ROWS} tokens, {HEADS} heads"));
        measure(&mut group, id, &cpu, || {
            let op = ops::Attention::new(q.view(), k.view(), v.view(), HEADS, y.view_mut());
            cpu.call(op, Some(&mut room.view_mut()))
        });
    }
    group.finish();
}

fn moves(c: &mut Criterion) {
    let cpu = cpu();
    let mut group = c.benchmark_group("moves");
    short(&mut group);
    for (from, to) in [(DType::BF16, DType::F32), (DType::F32, DType::BF16), (DType::F8_E4M3, DType::BF16)] {
        let x = Tensor::new(&cpu, from, &[ROWS, WIDTH]);
        let mut y = Tensor::new(&cpu, to, &[ROWS, WIDTH]);
        group.throughput(Throughput::Bytes(x.meta.bytes() + y.meta.bytes()));
        let id = BenchmarkId::new("cast", format!("{from} to {to}"));
        measure(&mut group, id, &cpu, || cpu.call(ops::Cast::new(x.view(), y.view_mut()), None));
    }
    let table = Tensor::new(&cpu, DType::BF16, &[30_000, 384]);
    let ids: Vec<u32> = (0..ROWS as u32).map(|i| i.wrapping_mul(7919) % 30_000).collect();
    let mut y = Tensor::new(&cpu, DType::F32, &[ROWS, 384]);
    group.throughput(Throughput::Bytes(y.meta.bytes() * 3 / 2));
    measure(&mut group, BenchmarkId::new("gather", "BF16 to F32"), &cpu, || {
        cpu.call(ops::Gather::new(table.view(), &ids, y.view_mut()), None)
    });
    group.finish();
}

criterion_group!(benches, linear, rows, attention, moves);
criterion_main!(benches);
