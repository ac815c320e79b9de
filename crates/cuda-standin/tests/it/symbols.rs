//! The functions that the tests call, under their names in `cuda.h`, `nvrtc.h` and `cublasLt.h`.

#![allow(non_snake_case, reason = "the names are NVIDIA's")]

use std::ffi::{c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::LazyLock;

use libloading::Library;

macro_rules! symbols {
    ($($name:ident($($argument:ty),*) $(-> $answer:ty)?;)*) => {
        /// The library's functions.
        pub(crate) struct Symbols {
            _library: Library,
            $(pub(crate) $name: extern "C" fn($($argument),*) -> symbols!(@ $($answer)?),)*
        }

        impl Symbols {
            fn load() -> Self {
                // SAFETY: the library is this crate's own, and has these functions with these
                // arguments.
                unsafe {
                    let library = Library::new(path()).expect("the stand-in is built before its tests");
                    $(let $name = *library.get(concat!(stringify!($name), "\0").as_bytes()).expect(stringify!($name));)*
                    Self { _library: library, $($name),* }
                }
            }
        }
    };
    (@) => { u32 };
    (@ $answer:ty) => { $answer };
}

symbols! {
    cuInit(u32);
    cuDriverGetVersion(*mut c_int);
    cuGetErrorName(u32, *mut *const c_char);
    cuDeviceGetCount(*mut c_int);
    cuDeviceGet(*mut c_int, c_int);
    cuDeviceGetName(*mut c_char, c_int, c_int);
    cuDeviceTotalMem_v2(*mut usize, c_int);
    cuDeviceGetAttribute(*mut c_int, c_int, c_int);
    cuDevicePrimaryCtxRetain(*mut usize, c_int);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuCtxSetCurrent(usize);
    cuCtxGetCurrent(*mut usize);
    cuCtxSynchronize();
    cuMemGetInfo_v2(*mut usize, *mut usize);
    cuMemAlloc_v2(*mut u64, usize);
    cuMemFree_v2(u64);
    cuMemHostAlloc(*mut *mut c_void, usize, u32);
    cuMemFreeHost(*mut c_void);
    cuPointerGetAttribute(*mut c_void, c_int, u64);
    cuMemcpyHtoD_v2(u64, *const c_void, usize);
    cuMemcpyDtoH_v2(*mut c_void, u64, usize);
    cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, usize);
    cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, usize);
    cuMemcpyDtoDAsync_v2(u64, u64, usize, usize);
    cuMemsetD8Async(u64, u8, usize, usize);
    cuStreamCreate(*mut usize, u32);
    cuStreamDestroy_v2(usize);
    cuStreamSynchronize(usize);
    cuStreamQuery(usize);
    cuStreamWaitEvent(usize, usize, u32);
    cuEventCreate(*mut usize, u32);
    cuEventDestroy_v2(usize);
    cuEventRecord(usize, usize);
    cuEventQuery(usize);
    cuEventSynchronize(usize);
    cuEventElapsedTime(*mut f32, usize, usize);
    cuModuleLoadData(*mut usize, *const c_char);
    cuModuleUnload(usize);
    cuModuleGetFunction(*mut usize, usize, *const c_char);
    cuFuncSetAttribute(usize, c_int, c_int);
    cuLaunchKernel(usize, u32, u32, u32, u32, u32, u32, u32, usize, *const *const c_void, *const *const c_void);
    nvrtcVersion(*mut c_int, *mut c_int);
    nvrtcGetNumSupportedArchs(*mut c_int);
    nvrtcGetSupportedArchs(*mut c_int);
    nvrtcCreateProgram(*mut usize, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
    nvrtcCompileProgram(usize, c_int, *const *const c_char);
    nvrtcGetProgramLogSize(usize, *mut usize);
    nvrtcGetProgramLog(usize, *mut c_char);
    nvrtcGetCUBINSize(usize, *mut usize);
    nvrtcGetCUBIN(usize, *mut c_char);
    nvrtcGetPTXSize(usize, *mut usize);
    nvrtcGetPTX(usize, *mut c_char);
    nvrtcDestroyProgram(*mut usize);
    cublasLtCreate(*mut usize);
    cublasLtDestroy(usize);
    cublasLtMatmulDescCreate(*mut usize, u32, u32);
    cublasLtMatmulDescSetAttribute(usize, u32, *const c_void, usize);
    cublasLtMatmulDescDestroy(usize);
    cublasLtMatrixLayoutCreate(*mut usize, u32, u64, u64, i64);
    cublasLtMatrixLayoutSetAttribute(usize, u32, *const c_void, usize);
    cublasLtMatrixLayoutDestroy(usize);
    cublasLtMatmulPreferenceCreate(*mut usize);
    cublasLtMatmulPreferenceSetAttribute(usize, u32, *const c_void, usize);
    cublasLtMatmulPreferenceDestroy(usize);
    cublasLtMatmulAlgoGetHeuristic(usize, usize, usize, usize, usize, usize, usize, c_int, *mut [u64; 12], *mut c_int);
    cublasLtMatmulAlgoConfigGetAttribute(*const u64, u32, *mut c_void, usize, *mut usize);
    cublasLtMatmulAlgoCheck(usize, usize, usize, usize, usize, usize, *const u64, *mut [u64; 12]);
    cublasLtMatmul(
        usize, usize, *const c_void, u64, usize, u64, usize, *const c_void, u64, usize, u64, usize, *const u64,
        *mut c_void, usize, usize
    );
    standin_set(*const c_char, i64);
    standin_reset();
    standin_forgive();
    standin_books(*mut u64, usize) -> usize;
    standin_new_peaks();
    standin_report(*mut c_char, usize) -> usize;
}

/// Opened once, as a process does.
pub(crate) static SYMBOLS: LazyLock<Symbols> = LazyLock::new(Symbols::load);

/// Cargo puts the library into the folder of the tests or into its parent.
fn path() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    let name = format!("{}cuda_standin{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join(&name)).find(|p| p.exists());
    found.expect("the stand-in's library lies beside its tests")
}
