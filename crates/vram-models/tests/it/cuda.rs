//! The models on the first NVIDIA card that is here, or on the stand-in for its driver.

use std::sync::Arc;

use vram_device::cuda::{Cuda, CudaOptions};
use vram_device::{DeviceError, Kernels};

use crate::{bits, card};

fn device() -> Option<Arc<dyn Kernels>> {
    match Cuda::new(CudaOptions::default()) {
        Ok(cuda) => Some(Arc::new(cuda)),
        Err(reason @ DeviceError::Unavailable { .. }) => {
            assert!(std::env::var_os("VRAM_CUDA_REQUIRED").is_none(), "{reason}");
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_controlnet_equals_pytorch_and_no_budget_changes_a_bit() {
    if let Some(cuda) = device() {
        card::controlnet_equals_pytorch_and_no_budget_changes_a_bit(&cuda);
    }
}

#[test]
fn minilm_equals_pytorch_and_no_budget_changes_a_bit() {
    if let Some(cuda) = device() {
        card::minilm_equals_pytorch_and_no_budget_changes_a_bit(&cuda);
    }
}

#[test]
fn smollm2_says_what_pytorch_says_and_no_budget_changes_a_bit() {
    if let Some(cuda) = device() {
        card::smollm2_says_what_pytorch_says_and_no_budget_changes_a_bit(&cuda);
    }
}

#[test]
fn the_bits_are_those_that_are_known() {
    if let Some(cuda) = device() {
        bits::check(&format!("cuda {}", cuda.info().name), &cuda);
    }
}
