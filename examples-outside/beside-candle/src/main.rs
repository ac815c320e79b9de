//! Weights move with `vram-device`, and candle computes with them, on one card.

use candle_core::{DType, Device, Tensor};
use vram_device::cuda::{Cuda, CudaOptions};
use vram_device::{Budget, Device as _, Lifetime, Tier};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ours = Cuda::new(CudaOptions::default())?;
    let room = Budget::new(Tier::Device, 1 << 20).reserve(Lifetime::Weights, 1 << 20)?;
    let weights = ours.allocate(room)?;

    let theirs = Device::new_cuda(0)?;
    let sum = Tensor::ones((2, 3), DType::F32, &theirs)?.sum_all()?;
    println!("{}: {} bytes, candle sums to {sum}", ours.info().name, weights.bytes());
    Ok(())
}
