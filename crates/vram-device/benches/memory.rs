//! What a byte under a budget costs to ask for: reservations, and regions of an arena.
//!
//! `cargo bench -p vram-device --bench memory`

#![allow(missing_docs)] // criterion's macro makes a public function

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Arena, Budget, Device, Lifetime, Region, Tier};

/// A ring's bytes, and those of a unit in it.
const RING: u64 = 64 << 20;
const UNIT: u64 = 3 << 20;
const ALIGN: u64 = 256;

fn group<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500));
    group
}

fn budget(c: &mut Criterion) {
    let mut group = group(c, "budget");
    let budget = Budget::new(Tier::Device, 1 << 20);
    group.bench_function("reserve and release", |b| {
        b.iter(|| budget.reserve(Lifetime::Pass, black_box(4096)));
    });
    group.bench_function("refuse", |b| {
        b.iter(|| budget.reserve(Lifetime::Pass, black_box(2 << 20)));
    });
    group.finish();
}

fn arenas(c: &mut Criterion) {
    let cpu = Cpu::new(CpuOptions { threads: Some(1), ..Default::default() }).expect("a CPU device");
    let budget = Budget::new(Tier::Device, 4 * RING);
    let buffer = || {
        let room = budget.reserve(Lifetime::Weights, RING).expect("within the budget");
        cpu.allocate(room).expect("64 MiB that nothing touches")
    };
    let mut group = group(c, "arena");
    group.bench_function("allocate and free 3 MiB on the device", |b| {
        b.iter(|| {
            let room = budget.reserve(Lifetime::Weights, UNIT).expect("within the budget");
            cpu.allocate(room).expect("3 MiB that nothing touches")
        });
    });
    let ring = Arena::ring(vec![buffer()]);
    let mut held: VecDeque<Region> = VecDeque::new();
    group.bench_function("ring, first in first out", |b| b.iter(|| turn(&ring, &mut held)));
    // What a layer does: a few activations, freed in another order than they came.
    let first_fit = Arena::first_fit(vec![buffer()]);
    group.bench_function("first fit, four activations", |b| {
        b.iter(|| {
            let regions = [1u64, 3, 2, 4].map(|n| first_fit.alloc(black_box(n * 100_000), ALIGN));
            let [a, b, c, d] = regions;
            drop((c, a, d, b));
        });
    });
    group.finish();
}

/// The oldest unit leaves when the next finds no room.
fn turn(ring: &Arena, held: &mut VecDeque<Region>) {
    let region = loop {
        match ring.alloc(black_box(UNIT), ALIGN) {
            Some(region) => break region,
            None => drop(held.pop_front().expect("a unit is smaller than the ring")),
        }
    };
    held.push_back(region);
}

criterion_group!(benches, budget, arenas);
criterion_main!(benches);
