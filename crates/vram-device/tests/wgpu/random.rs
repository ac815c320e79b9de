//! Kernels against f64 on random shapes, in every dtype that the backend takes.

use std::time::{Duration, Instant};

use vram_device::conformance::{Draw, random_shapes};
use vram_device::wgpu::{WgpuOptions, api};
use vram_types::DType;

use crate::util::open;

const ACTS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];
const WEIGHTS: [DType; 5] = [DType::F32, DType::BF16, DType::F16, DType::F8_E4M3, DType::F8_E5M2];

/// Seeds are tried for so long, and at least a few.
const TIME: Duration = Duration::from_secs(15);

#[test]
fn kernels_are_right_on_random_shapes() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    // f16 is stored and not computed in: an adapter without 16-bit arithmetic does the same.
    assert!(!wgpu.device().features().contains(api::Features::SHADER_F16));
    let seed = std::env::var("VRAM_SEED").ok().map(|text| text.parse::<u64>().unwrap());
    let start = Instant::now();
    let mut tried = 0;
    while tried < 5 || (start.elapsed() < TIME && seed.is_none()) {
        let seed = seed.unwrap_or(100 + tried);
        // Compiling kernels takes the most time: two pairs of dtypes for each seed.
        let from = |all: &[DType], skip: u64| all[((seed + skip) % all.len() as u64) as usize];
        let draw =
            Draw { seed, acts: vec![from(&ACTS, 0)], weights: vec![from(&WEIGHTS, 0), from(&WEIGHTS, 2)] };
        random_shapes(&wgpu, &draw).unwrap_or_else(|failure| panic!("VRAM_SEED={seed}: {failure}"));
        tried += 1;
    }
    println!("{tried} seeds in {:.1} s", start.elapsed().as_secs_f64());
}
