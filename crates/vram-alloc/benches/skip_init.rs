//! Builds a ControlNet with 60 blocks of width 3072 (2.27 GB of bf16) without its weights, and a
//! smaller one with them.
//!
//! `cargo bench -p vram-alloc`

#![allow(missing_docs)] // criterion's macro makes a public function

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vram_alloc::{counts, skip_init};

#[path = "../tests/it/models.rs"]
#[allow(dead_code)]
mod models;
use models::ControlNet;

fn building(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group.bench_function("skip_init/60x3072", |b| {
        b.iter(|| skip_init(|| ControlNet::new(black_box(60), 3072, 64)));
    });
    group.bench_function("skip_init/60x512", |b| {
        b.iter(|| skip_init(|| ControlNet::new(black_box(60), 512, 64)));
    });
    let bytes = skip_init(|| ControlNet::new(60, 512, 64)).map_or(0, |net| counts(&net).weights.bytes);
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("allocate/60x512", |b| {
        b.iter(|| ControlNet::new(black_box(60), 512, 64));
    });
    group.finish();
}

criterion_group!(benches, building);
criterion_main!(benches);
