//! cublasLt's functions, with its codes turned into errors.

use std::ffi::{c_int, c_void};
use std::mem::size_of_val;
use std::ptr::{from_ref, null_mut};

use cudarc::cublaslt::sys;
use vram_types::DType;

use super::driver::Stream;
use crate::DeviceError;

/// How many algorithms the library is asked for.
const CANDIDATES: usize = 8;

/// The library's `CUBLAS_OP_T`, whose enum is only in the cublas header.
const TRANSPOSED: i32 = 1;

/// The library's `CUBLAS_STATUS_INVALID_VALUE` and `CUBLAS_STATUS_NOT_SUPPORTED`.
const INVALID_VALUE: u32 = 7;
const NOT_SUPPORTED: u32 = 15;

/// Bytes to which all operands are aligned.
pub(super) const ALIGNMENT: u64 = 16;

fn check(what: &'static str, code: sys::cublasStatus_t) -> Result<(), DeviceError> {
    match code as u32 {
        0 => Ok(()),
        number => Err(DeviceError::Failed { what, reason: format!("{code:?} ({number})") }),
    }
}

/// The library's name of a dtype; `None` for dtypes that it is not used for.
pub(super) fn data_type(dtype: DType) -> Option<sys::cudaDataType_t> {
    match dtype {
        DType::F32 => Some(sys::cudaDataType_t::CUDA_R_32F),
        DType::BF16 => Some(sys::cudaDataType_t::CUDA_R_16BF),
        DType::F16 => Some(sys::cudaDataType_t::CUDA_R_16F),
        _ => None,
    }
}

/// The library's version, as `12.8.4`.
pub(super) fn version() -> String {
    // SAFETY: it takes no arguments, and the library has been probed.
    let version = unsafe { sys::cublasLtGetVersion() };
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// An algorithm for a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Algorithm(sys::cublasLtMatmulAlgo_t);

/// `d = x w^T` in row-major terms: `w` is `outputs` by `inner`, `x` is `rows` by `inner`, `d` is f32 with a
/// row pitch of `pitch` elements. Sums are f32, without TF32.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) dtype: DType,
    pub(super) rows: u64,
    pub(super) outputs: u64,
    pub(super) inner: u64,
    pub(super) pitch: u64,
}

/// The library, with a description of the only product that we use.
pub(super) struct Library {
    handle: sys::cublasLtHandle_t,
    product: sys::cublasLtMatmulDesc_t,
}

// SAFETY: handles may be used on any thread, one at a time, which `Blas` ensures.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Creates it in the current context. The library has been probed.
    pub(super) fn new() -> Result<Library, DeviceError> {
        let mut library = Library { handle: null_mut(), product: null_mut() };
        // SAFETY: the handle is a valid out-parameter.
        check("cublasLtCreate", unsafe { sys::cublasLtCreate(&mut library.handle) })?;
        let made = library.describe();
        if made.is_err() {
            library.destroy();
            return made.map(|()| Library { handle: null_mut(), product: null_mut() });
        }
        Ok(library)
    }

    fn describe(&mut self) -> Result<(), DeviceError> {
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let scale = sys::cudaDataType_t::CUDA_R_32F;
        // SAFETY: the description is a valid out-parameter.
        check("cublasLtMatmulDescCreate", unsafe {
            sys::cublasLtMatmulDescCreate(&mut self.product, compute, scale)
        })?;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the description was created, and the value has the stated size.
        check("cublasLtMatmulDescSetAttribute", unsafe {
            let value = from_ref(&TRANSPOSED).cast::<c_void>();
            sys::cublasLtMatmulDescSetAttribute(self.product, attribute, value, size_of_val(&TRANSPOSED))
        })
    }

    /// Algorithms for a shape, best first, that use no workspace and sum each element in one piece.
    pub(super) fn candidates(&self, shape: &Shape) -> Result<Vec<Algorithm>, DeviceError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let layouts = Layouts::new(shape)?;
        let preference = Preference::new()?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &0u64)?;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &0u32)?;
        for operand in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(operand, &(ALIGNMENT as u32))?;
        }
        let mut found = [EMPTY; CANDIDATES];
        let mut count: c_int = 0;
        // SAFETY: all descriptions are alive, there is room for as many results as are requested, and the
        // count is a valid out-parameter.
        let code = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.product,
                layouts.weight,
                layouts.x,
                layouts.sums,
                layouts.sums,
                preference.0,
                CANDIDATES as c_int,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        if code as u32 == NOT_SUPPORTED {
            return Ok(Vec::new());
        }
        check("cublasLtMatmulAlgoGetHeuristic", code)?;
        let found = found.iter().take(usize::try_from(count).unwrap_or(0));
        let good = found.filter(|result| result.state as u32 == 0 && result.workspaceSize == 0);
        Ok(good
            .map(|result| Algorithm(result.algo))
            .filter(|algorithm| algorithm.is_in_one_piece())
            .collect())
    }

    /// Issues a product, or reports that the algorithm does not support this shape.
    ///
    /// # Safety
    /// `weight`, `x` and `sums` point to device memory of the shape's extents that lives until the product is
    /// done.
    pub(super) unsafe fn multiply(
        &self,
        algorithm: &Algorithm,
        shape: &Shape,
        (weight, x, sums): (u64, u64, u64),
        on: &Stream,
    ) -> Result<bool, DeviceError> {
        let layouts = Layouts::new(shape)?;
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the descriptions are alive, the factors are read before the call returns, and the caller
        // promises the rest.
        let code = unsafe {
            sys::cublasLtMatmul(
                self.handle,
                self.product,
                from_ref(&one).cast(),
                weight as *const c_void,
                layouts.weight,
                x as *const c_void,
                layouts.x,
                from_ref(&zero).cast(),
                sums as *const c_void,
                layouts.sums,
                sums as *mut c_void,
                layouts.sums,
                &algorithm.0,
                null_mut(),
                0,
                on.handle().cast(),
            )
        };
        // An algorithm that needs a workspace for a shape finds none, which it reports as an invalid value.
        if matches!(code as u32, NOT_SUPPORTED | INVALID_VALUE) {
            return Ok(false);
        }
        check("cublasLtMatmul", code).map(|()| true)
    }

    /// Destroys it. Call it once and do not use it again.
    pub(super) fn destroy(&self) {
        // SAFETY: each was created if it is present, and is not used again. An error has no one to go to.
        unsafe {
            if !self.product.is_null() {
                let _ = sys::cublasLtMatmulDescDestroy(self.product);
            }
            let _ = sys::cublasLtDestroy(self.handle);
        }
    }
}

const EMPTY: sys::cublasLtMatmulHeuristicResult_t = sys::cublasLtMatmulHeuristicResult_t {
    algo: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
    workspaceSize: 0,
    state: sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    wavesCount: 0.0,
    reserved: [0; 4],
};

impl Algorithm {
    /// Whether it neither splits the inner extent nor reduces partial sums.
    fn is_in_one_piece(&self) -> bool {
        use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
        let read = |attribute| {
            let (mut value, mut written) = (0u32, 0usize);
            // SAFETY: the value has the stated size, and the count is a valid out-parameter.
            let code = unsafe {
                let to = std::ptr::from_mut(&mut value).cast::<c_void>();
                let size = size_of_val(&value);
                sys::cublasLtMatmulAlgoConfigGetAttribute(&self.0, attribute, to, size, &mut written)
            };
            (code as u32 == 0).then_some(value)
        };
        // If it does not say, assume that it splits.
        read(Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM).is_some_and(|pieces| pieces <= 1)
            && read(Attribute::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) == Some(0)
    }
}

/// Descriptions of the three matrices, column-major as the library expects.
struct Layouts {
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    sums: sys::cublasLtMatrixLayout_t,
}

impl Layouts {
    fn new(shape: &Shape) -> Result<Layouts, DeviceError> {
        const WHAT: &str = "cublasLtMatrixLayoutCreate";
        let dtype = data_type(shape.dtype)
            .ok_or_else(|| DeviceError::dtype("linear", shape.dtype, "cublasLt has none"))?;
        let mut layouts = Layouts { weight: null_mut(), x: null_mut(), sums: null_mut() };
        let create = |to: &mut sys::cublasLtMatrixLayout_t, dtype, rows, columns, pitch: u64| {
            // SAFETY: the layout is a valid out-parameter.
            check(WHAT, unsafe { sys::cublasLtMatrixLayoutCreate(to, dtype, rows, columns, pitch as i64) })
        };
        create(&mut layouts.weight, dtype, shape.inner, shape.outputs, shape.inner)?;
        create(&mut layouts.x, dtype, shape.inner, shape.rows, shape.inner)?;
        let sums = sys::cudaDataType_t::CUDA_R_32F;
        create(&mut layouts.sums, sums, shape.outputs, shape.rows, shape.pitch)?;
        Ok(layouts)
    }
}

impl Drop for Layouts {
    fn drop(&mut self) {
        for layout in [self.weight, self.x, self.sums] {
            if !layout.is_null() {
                // SAFETY: created, and not used again. An error has no one to go to.
                let _ = unsafe { sys::cublasLtMatrixLayoutDestroy(layout) };
            }
        }
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new() -> Result<Preference, DeviceError> {
        let mut preference = Preference(null_mut());
        // SAFETY: the preference is a valid out-parameter.
        let code = unsafe { sys::cublasLtMatmulPreferenceCreate(&mut preference.0) };
        check("cublasLtMatmulPreferenceCreate", code).map(|()| preference)
    }

    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), DeviceError> {
        // SAFETY: the preference was created, and the value has the stated size.
        check("cublasLtMatmulPreferenceSetAttribute", unsafe {
            let (from, size) = (from_ref(value).cast(), size_of_val(value));
            sys::cublasLtMatmulPreferenceSetAttribute(self.0, attribute, from, size)
        })
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: created, and not used again. An error has no one to go to.
            let _ = unsafe { sys::cublasLtMatmulPreferenceDestroy(self.0) };
        }
    }
}
