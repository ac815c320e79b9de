//! How much there is.

use vram_device::cuda::CudaOptions;
use vram_device::{Device, DeviceError, Lifetime};

use crate::util::{budget, open};

#[test]
fn more_than_the_card_has_is_out_of_memory_with_the_size() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let total = cuda.memory().unwrap().total;
    assert_eq!(cuda.info().max_allocation, total);
    let error = cuda.allocate(budget().reserve(Lifetime::Weights, total + 1).unwrap()).unwrap_err();
    assert!(matches!(error, DeviceError::OutOfMemory { bytes, .. } if bytes == total + 1), "{error}");
    assert!(error.is_oom() && error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY"), "{error}");
}
