//! The backend for Vulkan, Metal and DX12, on the first adapter that is here; without one the tests say so.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../gpu/mod.rs"]
mod gpu;
#[path = "../table/mod.rs"]
mod table;

mod limits;
mod loss;
mod oom;
mod random;
mod transfer;
mod util;

use vram_device::wgpu::WgpuOptions;
use vram_device::{Device, Execution, Memory, conformance};

fn passes(options: WgpuOptions) {
    let Some(wgpu) = util::open(options.clone()) else { return };
    let failed: Vec<_> =
        conformance::cases().iter().filter_map(|case| case.run(&wgpu).err()).map(|e| e.to_string()).collect();
    assert!(failed.is_empty(), "{wgpu:?}, {options:?}: {failed:#?}");
    println!("{wgpu:?}: {} cases", conformance::cases().len());
}

#[test]
fn an_adapter_passes_the_suite() {
    passes(WgpuOptions::default());
}

#[test]
fn an_adapter_that_binds_little_passes_the_suite() {
    passes(WgpuOptions { max_binding: Some(12 << 10), ..Default::default() });
}

#[test]
fn the_page_says_what_an_adapter_can_run() {
    if let Some(device) = util::open(WgpuOptions::default()) {
        table::check("wgpu", &device);
    }
}

gpu::tests!(util::open(WgpuOptions::default()));

#[test]
fn the_host_does_not_see_its_memory() {
    let Some(device) = util::open(WgpuOptions::default()) else { return };
    let topology = device.info().topology;
    assert_eq!((topology.memory, topology.kernels), (Memory::Discrete, Execution::Queued));
    assert!(!topology.separate_copy_queue);
}
