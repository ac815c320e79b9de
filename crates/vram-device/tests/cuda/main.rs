//! The backend for NVIDIA cards, on whatever driver the loader finds: a card's, or the stand-in's, which `cargo xtask test` builds and
//! puts first. Without any the tests say so.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod casts;
mod children;
mod compiled;
mod order;
mod products;
mod standin;
mod theirs;
mod transfer;
mod util;

use vram_device::conformance;
use vram_device::cuda::{CudaMatmul, CudaOptions};

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
