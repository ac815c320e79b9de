//! The backend for NVIDIA cards, on whatever driver the loader finds: a card's, or the stand-in's, which `cargo xtask test` builds and
//! puts first. Without any the tests say so.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../gpu/mod.rs"]
mod gpu;
#[path = "../table/mod.rs"]
mod table;

mod adopt;
mod children;
mod compiled;
mod products;
mod standin;
mod transfer;
mod util;

use vram_device::cuda::{CudaMatmul, CudaOptions};
use vram_device::{Device, Execution, Memory, conformance};

fn passes(options: CudaOptions) {
    let Some(cuda) = util::open(options.clone()) else { return };
    let failed: Vec<_> =
        conformance::cases().iter().filter_map(|case| case.run(&cuda).err()).map(|e| e.to_string()).collect();
    assert!(failed.is_empty(), "{cuda:?}, {options:?}: {failed:#?}");
    println!("{cuda:?}: {} cases", conformance::cases().len());
}

#[test]
fn a_card_passes_the_suite() {
    passes(CudaOptions::default());
}

#[test]
fn a_card_passes_the_suite_by_our_own_kernels() {
    passes(CudaOptions { matmul: CudaMatmul::Own, ..Default::default() });
}

#[test]
fn the_page_says_what_a_card_can_run() {
    if let Some(device) = util::open(CudaOptions::default()) {
        table::check("cuda", &device);
    }
}

gpu::tests!(util::open(CudaOptions::default()));

#[test]
fn the_host_does_not_see_its_memory() {
    let Some(device) = util::open(CudaOptions::default()) else { return };
    let topology = device.info().topology;
    assert_eq!((topology.memory, topology.kernels), (Memory::Discrete, Execution::Queued));
    assert!(topology.separate_copy_queue);
}
