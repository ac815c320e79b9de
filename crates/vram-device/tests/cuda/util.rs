use std::path::Path;

use vram_device::DeviceError;
use vram_device::cuda::{Cuda, CudaCache, CudaOptions};

pub(crate) use crate::gpu::util::*;

/// Where tests keep what they compile, so that the next run need not.
pub(crate) fn cache() -> CudaCache {
    CudaCache::At(Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-cache"))
}

/// The first card that is here.
pub(crate) fn open(options: CudaOptions) -> Option<Cuda> {
    match Cuda::new(CudaOptions { cache: cache(), ..options }) {
        Ok(cuda) => Some(cuda),
        Err(reason @ DeviceError::Unavailable { .. }) => {
            assert!(std::env::var_os("VRAM_CUDA_REQUIRED").is_none(), "{reason}");
            println!("skipped: {reason}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
