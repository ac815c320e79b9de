//! Finds out which CUDA libraries are on this machine before they are used.
//!
//! Unless a program links cudarc to NVIDIA's libraries, cudarc loads a library and looks up a function on the
//! first call of that function, and panics if it is missing. So we look for each library first, and then for
//! each function that this backend calls.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::mem::ManuallyDrop;

use cudarc::driver::sys::CUDA_VERSION;
use libloading::Library;

use crate::DeviceError;

/// Functions of the driver that we call.
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

/// Probes the driver's library and every function we call in it.
pub(super) fn driver() -> Result<(), DeviceError> {
    let Some(library) = open("cuda") else {
        return Err(unavailable("there is no NVIDIA driver here: the loader finds no libcuda"));
    };
    match missing(&library, &DRIVER) {
        Some(name) => Err(unavailable(format!("the NVIDIA driver is older than CUDA 12: it has no {name}"))),
        None => Ok(()),
    }
}

/// Probes the compiler of kernels.
pub(super) fn nvrtc() -> Result<(), DeviceError> {
    let Some(library) = open("nvrtc") else {
        return Err(unavailable(
            "there is no NVRTC here, which compiles its kernels: the loader finds no libnvrtc (it comes with the CUDA \
             toolkit, or with pip's nvidia-cuda-nvrtc-cu12, whose folder then has to be in LD_LIBRARY_PATH)",
        ));
    };
    match missing(&library, &NVRTC) {
        Some(name) => Err(unavailable(format!("its NVRTC is too old: it has no {name}"))),
        None => Ok(()),
    }
}

/// Probes the library of matrix products, or says why it cannot be used.
pub(super) fn cublas_lt() -> Result<(), String> {
    let Some(library) = open("cublasLt") else {
        return Err("the loader finds no libcublasLt".into());
    };
    match missing(&library, &CUBLAS_LT) {
        Some(name) => Err(format!("its libcublasLt has no {name}")),
        None => Ok(()),
    }
}

/// Opens one of NVIDIA's libraries by a name that cudarc would try too, so that cudarc finds what we find.
fn open(name: &str) -> Option<ManuallyDrop<Library>> {
    // SAFETY: the library is NVIDIA's, whose initialisers are made to run in any program that loads it.
    let found = names(name).into_iter().find_map(|name| unsafe { Library::new(name) }.ok());
    // It stays loaded: its threads may still run when this process is done with it.
    found.map(ManuallyDrop::new)
}

/// Some of the names that cudarc tries, in its order: those that drivers, and toolkits since CUDA 11, use.
fn names(name: &str) -> Vec<String> {
    let (major, minor) = (CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
    let file = format!("{DLL_PREFIX}{name}{DLL_SUFFIX}");
    if cfg!(windows) {
        let parts = [format!("_{major}"), format!("_{major}{minor}_0"), "_12".into(), "_11".into()];
        let own = parts.into_iter().map(|part| format!("{name}64{part}{DLL_SUFFIX}"));
        // On Windows the driver has another name.
        let driver = (name == "cuda").then(|| format!("nvcuda{DLL_SUFFIX}"));
        return std::iter::once(file).chain(own).chain(driver).collect();
    }
    let versions = [String::new(), format!(".{major}"), ".12".into(), ".11".into(), ".1".into()];
    versions.into_iter().map(|version| format!("{file}{version}")).collect()
}

/// The first of these functions that a library lacks.
fn missing<'n>(library: &Library, names: &[&'n str]) -> Option<&'n str> {
    // SAFETY: symbols are looked up and not called.
    names
        .iter()
        .copied()
        .find(|name| unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err())
}
