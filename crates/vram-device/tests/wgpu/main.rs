//! The backend for Vulkan, Metal and DX12, on the first adapter that is here; without one the tests say so.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod casts;
mod limits;
mod loss;
mod oom;
mod order;
mod random;
mod transfer;
mod util;

use vram_device::conformance;
use vram_device::wgpu::WgpuOptions;

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
