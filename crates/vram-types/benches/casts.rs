//! Casts beside a copy of as many bytes as they read and write, on one thread and on the rayon pool.
//!
//! Throughput counts the bytes read and written, so that a cast's figure over that of `copy` is its share of the
//! memory's speed. `cargo bench -p vram-types`

#![allow(missing_docs)] // criterion's macro makes a public function

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vram_types::DType;
use vram_types::cast::{Isa, cast, cast_serial_on};

const PAIRS: [(DType, DType); 14] = [
    (DType::BF16, DType::F32),
    (DType::F32, DType::BF16),
    (DType::F16, DType::F32),
    (DType::F32, DType::F16),
    (DType::F16, DType::BF16),
    (DType::BF16, DType::F16),
    (DType::F8_E4M3, DType::BF16),
    (DType::BF16, DType::F8_E4M3),
    (DType::F8_E5M2, DType::BF16),
    (DType::BF16, DType::F8_E5M2),
    (DType::F8_E4M3FNUZ, DType::BF16),
    (DType::BF16, DType::F8_E8M0),
    (DType::F64, DType::F32),
    (DType::F64, DType::BF16),
];

/// Far beyond every cache: what a checkpoint's tensors are. A large copy writes past the caches, and a cast does not, so
/// that the memory sees up to half as many bytes again of a cast.
fn in_memory(c: &mut Criterion) {
    casts(c, "memory", 16 << 20);
}

/// Within the second cache: the arithmetic alone.
fn in_cache(c: &mut Criterion) {
    casts(c, "cache", 32 << 10);
}

fn casts(c: &mut Criterion, name: &str, elements: usize) {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    let src: Vec<u8> = (0..elements * 8).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8 & 0xbf).collect();
    let mut dst = vec![1u8; elements * 8];

    let half = elements * 3; // a cast between bf16 and f32 moves 6 bytes per element
    group.throughput(Throughput::Bytes(2 * half as u64));
    group.bench_function("copy", |b| {
        b.iter(|| dst[..half].copy_from_slice(black_box(&src[..half])));
    });

    for (from, to) in PAIRS {
        let (read, written) = (elements * from.bits() as usize / 8, elements * to.bits() as usize / 8);
        group.throughput(Throughput::Bytes((read + written) as u64));
        for isa in Isa::available() {
            group.bench_function(format!("{from}-{to}/{}", isa.name()), |b| {
                b.iter(|| cast_serial_on(isa, black_box(&src[..read]), from, &mut dst[..written], to));
            });
        }
        if read + written > 1 << 20 {
            group.bench_function(format!("{from}-{to}/parallel"), |b| {
                b.iter(|| cast(black_box(&src[..read]), from, &mut dst[..written], to));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, in_memory, in_cache);
criterion_main!(benches);
