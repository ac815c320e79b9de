use vram_device::DeviceError;
use vram_device::wgpu::{Wgpu, WgpuOptions};

pub(crate) use crate::gpu::util::*;

/// The first adapter that is here.
pub(crate) fn open(options: WgpuOptions) -> Option<Wgpu> {
    match Wgpu::new(options) {
        Ok(wgpu) => Some(wgpu),
        Err(reason @ DeviceError::Unavailable { .. }) => {
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
