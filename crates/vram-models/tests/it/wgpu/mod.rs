//! The models on the first adapter that is here.

mod limits;
mod memory;
mod watched;

use std::sync::Arc;

use vram_device::wgpu::{Wgpu, WgpuOptions, api};
use vram_device::{DeviceError, Kernels};

use crate::{bits, card};

fn device(options: WgpuOptions) -> Option<Arc<Wgpu>> {
    match Wgpu::new(options) {
        Ok(wgpu) => Some(Arc::new(wgpu)),
        Err(reason @ DeviceError::Unavailable { .. }) => {
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn first() -> Option<Arc<dyn Kernels>> {
    device(WgpuOptions::default()).map(|wgpu| wgpu as Arc<dyn Kernels>)
}

#[test]
fn the_controlnet_equals_pytorch_and_no_budget_changes_a_bit() {
    if let Some(wgpu) = first() {
        card::controlnet_equals_pytorch_and_no_budget_changes_a_bit(&wgpu);
    }
}

#[test]
fn minilm_equals_pytorch_and_no_budget_changes_a_bit() {
    if let Some(wgpu) = first() {
        card::minilm_equals_pytorch_and_no_budget_changes_a_bit(&wgpu);
    }
}

#[test]
fn an_adapter_is_used_as_one_without_16_bit_arithmetic() {
    let Some(wgpu) = device(WgpuOptions::default()) else { return };
    assert!(!wgpu.device().features().contains(api::Features::SHADER_F16));
}

#[test]
fn smollm2_says_what_pytorch_says_and_no_budget_changes_a_bit() {
    if let Some(wgpu) = first() {
        card::smollm2_says_what_pytorch_says_and_no_budget_changes_a_bit(&wgpu);
    }
}

#[test]
fn the_bits_are_those_that_are_known() {
    if let Some(wgpu) = first() {
        bits::check(&format!("wgpu {}", wgpu.info().name), &wgpu);
    }
}
