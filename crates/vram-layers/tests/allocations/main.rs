//! That the computing thread allocates nothing per unit, by counting what the allocator gives out on it: the same pass
//! over twice as many layers takes as many allocations.

#![allow(clippy::unwrap_used)] // a test's failure is a panic
#![allow(unsafe_code)] // a global allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use vram_alloc::{module, skip_init};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Tier};
use vram_layers::layers::{Linear, RmsNorm};
use vram_layers::{Error, Forward, ModuleMap, VramConfig, enable_vram_management};
use vram_types::{DType, GeneratedSource, TensorMeta};

struct Counting;

thread_local! {
    /// Allocations on this thread so far.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain thread-local without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WIDTH: usize = 64;

struct Net {
    norm: RmsNorm,
    layers: Vec<Linear>,
}

module! { Net { norm, layers } }

impl Net {
    /// Allocations on the computing thread from the first layer to the last.
    fn forward(&self, fwd: &mut Forward<'_, '_>) -> Result<u64, Error> {
        let input = 0.5f32.to_le_bytes().repeat(3 * WIDTH);
        let x = fwd.input(&input, &TensorMeta::new(DType::F32, [3, WIDTH])?)?;
        let before = COUNT.get();
        let mut x = self.norm.forward(fwd, &x)?;
        for layer in &self.layers {
            x = layer.forward(fwd, &x)?;
        }
        Ok(COUNT.get() - before)
    }
}

/// Allocations of a warm pass over so many layers, under a budget in percent of the weights.
fn allocations(layers: usize, stored: DType, compute: DType, percent: u64) -> u64 {
    let mut tensors = vec![("norm.weight".to_owned(), TensorMeta::new(stored, [WIDTH]).unwrap())];
    for i in 0..layers {
        tensors.push((format!("layers.{i}.weight"), TensorMeta::new(stored, [WIDTH, WIDTH]).unwrap()));
    }
    let weights: u64 = tensors.iter().map(|(_, meta)| meta.bytes()).sum();
    let net = skip_init(|| {
        let layers = (0..layers).map(|_| Linear::new(WIDTH, WIDTH, false, stored).unwrap()).collect();
        Net { norm: RmsNorm::new(WIDTH, 1e-5, stored).unwrap(), layers }
    });
    let budget = Budget::new(Tier::Device, weights * percent / 100 + 64 * 1024);
    let mut config = VramConfig::disk(compute, budget);
    config.calibrate = false;
    let cpu = Arc::new(Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap());
    let ones = Arc::new(GeneratedSource::new(tensors, |_, _, dst| dst.fill(0x3c)).unwrap());
    let net = enable_vram_management(net, ones, cpu, &ModuleMap::standard(), config).unwrap();
    // Whatever is allocated once is.
    (0..6).map(|_| net.run(|net, fwd| net.forward(fwd)).unwrap()).min().unwrap()
}

#[test]
fn the_computing_thread_allocates_nothing_per_unit() {
    for percent in [200, 40] {
        for (stored, compute) in [
            (DType::BF16, DType::BF16),
            (DType::BF16, DType::F32),
            (DType::F32, DType::F32),
            (DType::F16, DType::F16),
            (DType::F8_E4M3, DType::BF16),
        ] {
            let (few, many) =
                (allocations(40, stored, compute, percent), allocations(80, stored, compute, percent));
            println!("{stored} in {compute}, {percent} % of the weights: {few} and {many} allocations");
            assert_eq!(
                many,
                few,
                "{stored} in {compute} under {percent} %: 40 layers more allocate {}",
                many - few
            );
        }
    }
}
