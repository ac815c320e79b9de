//! Counts allocations of a thread. The computing thread allocates nothing per unit: the same pass
//! over twice as many layers takes as many allocations. Planning holds few bytes.

#![allow(clippy::unwrap_used)] // a test's failure is a panic
#![allow(unsafe_code)] // a global allocator

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use vram_alloc::{module, skip_init};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::{Budget, Queue, Tier};
use vram_layers::layers::{Linear, RmsNorm};
use vram_layers::{
    Engine, EngineOptions, Error, Forward, LayerId, LayerSpec, ModuleMap, PassRequest, Split, VramConfig,
    enable_vram_management,
};
use vram_types::{DType, GeneratedSource, TensorMeta};

mod decode;
mod planning;

struct Counting;

thread_local! {
    /// Allocations on this thread so far.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    /// Bytes that this thread allocated and has not freed, and the most of them at once. They wrap
    /// around, because this thread also frees what others allocated.
    static HELD: Cell<u64> = const { Cell::new(0) };
    static PEAK: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated and not freed, over a base that means nothing.
fn held() -> u64 {
    HELD.get()
}

/// What a function gives, and the most that [`held`] was meanwhile.
fn peak_of<R>(f: impl FnOnce() -> R) -> (R, u64) {
    PEAK.set(HELD.get());
    let result = f();
    (result, PEAK.get())
}

// SAFETY: every call goes to the system's allocator unchanged; the counters are plain thread-locals without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        let held = HELD.get().wrapping_add(layout.size() as u64);
        HELD.set(held);
        if (held.wrapping_sub(PEAK.get()) as i64) > 0 {
            PEAK.set(held);
        }
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size() as u64));
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
    fn forward(&self, fwd: &mut Forward<'_>) -> Result<u64, Error> {
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

/// Allocations of the beginning of a warm pass over so many layers.
fn beginnings(layers: usize, percent: u64) -> u64 {
    let meta = TensorMeta::new(DType::BF16, [WIDTH, WIDTH]).unwrap();
    let names: Vec<String> = (0..layers).map(|i| format!("layers.{i}.weight")).collect();
    let source = GeneratedSource::new(names.iter().map(|n| (n.clone(), meta.clone())), |_, _, _| {});
    let specs = names.iter().map(|n| LayerSpec::new(n.clone(), [n.clone()], Split::Rows)).collect();
    let budget = Budget::new(Tier::Device, layers as u64 * meta.bytes() * percent / 100 + 1024);
    let options = EngineOptions { calibrate: false, ..EngineOptions::new(budget) };
    let cpu = Arc::new(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap());
    let engine = Engine::new(Arc::new(source.unwrap()), cpu, specs, options).unwrap();
    let order: Vec<LayerId> = (0..layers).map(LayerId).collect();
    let pass = |workspace| {
        let request = PassRequest { workspace, trace: Some(order.clone()), ..PassRequest::default() };
        let before = COUNT.get();
        let mut pass = engine.begin(request).unwrap();
        let begun = COUNT.get() - before;
        for &layer in &order {
            for tile in 0..pass.tiles(layer) {
                let lease = pass.lease(layer, tile).unwrap();
                lease.finish(pass.device().ticket(Queue::Compute).unwrap());
            }
        }
        pass.finish().unwrap();
        begun
    };
    pass(1024);
    [1024, 512, 0].map(pass).into_iter().max().unwrap()
}

#[test]
fn a_pass_that_the_plan_will_do_for_begins_without_work_for_each_unit() {
    for percent in [110, 40] {
        let (few, many) = (beginnings(40, percent), beginnings(400, percent));
        println!("{percent} % of the weights: {few} and {many} allocations");
        assert!(many <= few && many < 8, "{few} and {many}");
    }
}
