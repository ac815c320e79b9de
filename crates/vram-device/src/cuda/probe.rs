//! What of CUDA is on this machine, found out before it is used.
//!
//! cudarc loads a library, and looks a function up, at the first call of it, and panics where there is none. So each library is
//! looked for first, and then each function that this backend calls.

use cudarc::{cublaslt, driver, nvrtc};

use crate::DeviceError;

/// Functions of the driver that are called.
const DRIVER: [&str; 32] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuPointerGetAttribute",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuLaunchKernel",
];

const NVRTC: [&str; 12] = [
    "nvrtcVersion",
    "nvrtcGetNumSupportedArchs",
    "nvrtcGetSupportedArchs",
    "nvrtcCreateProgram",
    "nvrtcCompileProgram",
    "nvrtcGetProgramLogSize",
    "nvrtcGetProgramLog",
    "nvrtcGetCUBINSize",
    "nvrtcGetCUBIN",
    "nvrtcGetPTXSize",
    "nvrtcGetPTX",
    "nvrtcDestroyProgram",
];

const CUBLAS_LT: [&str; 15] = [
    "cublasLtGetVersion",
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulAlgoConfigGetAttribute",
    "cublasLtMatmulAlgoCheck",
    "cublasLtMatmul",
];

pub(super) fn unavailable(reason: impl Into<String>) -> DeviceError {
    DeviceError::Unavailable { what: "the cuda backend".into(), reason: reason.into() }
}

/// The driver's library, with all that is called of it.
pub(super) fn driver() -> Result<(), DeviceError> {
    // SAFETY: the library is the driver's, whose initialisers are made to be run by whoever loads it.
    if !unsafe { driver::sys::is_culib_present() } {
        return Err(unavailable("there is no NVIDIA driver here: the loader finds no libcuda"));
    }
    // SAFETY: as above; it is there, so that this does not panic.
    let library = unsafe { driver::sys::culib() };
    for name in DRIVER {
        // SAFETY: the symbol is looked up and not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(unavailable(format!("the NVIDIA driver is older than CUDA 12: it has no {name}")));
        }
    }
    Ok(())
}

/// The compiler of kernels.
pub(super) fn nvrtc() -> Result<(), DeviceError> {
    // SAFETY: the library is NVIDIA's compiler, whose initialisers are made to be run by whoever loads it.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return Err(unavailable(
            "there is no NVRTC here, which compiles its kernels: the loader finds no libnvrtc (it comes with the CUDA \
             toolkit, or with pip's nvidia-cuda-nvrtc-cu12, whose folder then has to be in LD_LIBRARY_PATH)",
        ));
    }
    // SAFETY: as above; it is there, so that this does not panic.
    let library = unsafe { nvrtc::sys::culib() };
    for name in NVRTC {
        // SAFETY: the symbol is looked up and not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(unavailable(format!("its NVRTC is too old: it has no {name}")));
        }
    }
    Ok(())
}

/// The library of matrix products, or why it cannot be used.
pub(super) fn cublas_lt() -> Result<(), String> {
    // SAFETY: the library is NVIDIA's, whose initialisers are made to be run by whoever loads it.
    if !unsafe { cublaslt::sys::is_culib_present() } {
        return Err("the loader finds no libcublasLt".into());
    }
    // SAFETY: as above; it is there, so that this does not panic.
    let library = unsafe { cublaslt::sys::culib() };
    for name in CUBLAS_LT {
        // SAFETY: the symbol is looked up and not called.
        if unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err() {
            return Err(format!("its libcublasLt has no {name}"));
        }
    }
    Ok(())
}
