//! One test at a time on a freshly reset stand-in, and helpers for common steps.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::symbols::{SYMBOLS, Symbols};

pub(crate) const OUT_OF_MEMORY: u32 = 2;
pub(crate) const INVALID_VALUE: u32 = 1;
pub(crate) const INVALID_HANDLE: u32 = 400;
pub(crate) const NOT_READY: u32 = 600;
pub(crate) const ILLEGAL_ADDRESS: u32 = 700;

/// Indices in `standin_books`.
pub(crate) const LIVE: usize = 0;
pub(crate) const PEAK: usize = 1;
pub(crate) const COPIES_IN: usize = 5;
pub(crate) const UNPINNED: usize = 10;
pub(crate) const KERNELS: usize = 11;
pub(crate) const OBJECTS: usize = 15;

static ONE: Mutex<()> = Mutex::new(());

/// A stand-in for this test alone, with the context of device 0 current.
pub(crate) struct Standin {
    pub(crate) s: &'static Symbols,
    pub(crate) context: usize,
    _one: MutexGuard<'static, ()>,
}

impl Standin {
    /// Reset, with these settings, and initialised.
    pub(crate) fn new(settings: &[(&str, i64)]) -> Self {
        let mut standin = Self::bare(settings);
        ok((standin.s.cuInit)(0));
        ok((standin.s.cuDevicePrimaryCtxRetain)(&mut standin.context, 0));
        ok((standin.s.cuCtxSetCurrent)(standin.context));
        standin
    }

    /// Reset, with these settings, and no call made.
    pub(crate) fn bare(settings: &[(&str, i64)]) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let standin = Self { s: &SYMBOLS, context: 0, _one: one };
        ok((standin.s.standin_reset)());
        settings.iter().for_each(|(name, value)| standin.set(name, *value));
        standin
    }

    pub(crate) fn set(&self, name: &str, value: i64) {
        ok((self.s.standin_set)(CString::new(name).unwrap().as_ptr(), value));
    }

    pub(crate) fn book(&self, figure: usize) -> u64 {
        let mut figures = [0; 32];
        assert!((self.s.standin_books)(figures.as_mut_ptr(), 32) > figure);
        figures[figure]
    }

    /// The report, one line each.
    pub(crate) fn report(&self) -> Vec<String> {
        let mut text = vec![0u8; (self.s.standin_report)(ptr::null_mut(), 0)];
        (self.s.standin_report)(text.as_mut_ptr().cast::<c_char>(), text.len());
        CStr::from_bytes_until_nul(&text).unwrap().to_str().unwrap().lines().map(str::to_owned).collect()
    }

    /// The lines of the report about misuse.
    pub(crate) fn misuse(&self) -> Vec<String> {
        self.report().into_iter().filter(|l| l.starts_with("misuse: ")).collect()
    }

    /// Checks that there is exactly one misuse, with this text.
    #[track_caller]
    pub(crate) fn expect_misuse(&self, part: &str) {
        let misuse = self.misuse();
        assert!(misuse.len() == 1 && misuse[0].contains(part), "expected {part:?}, got {misuse:?}");
    }

    pub(crate) fn alloc(&self, bytes: usize) -> u64 {
        let mut address = 0;
        ok((self.s.cuMemAlloc_v2)(&mut address, bytes));
        address
    }

    /// Pinned memory for this many floats.
    pub(crate) fn pinned(&self, count: usize) -> &'static mut [f32] {
        let mut address = ptr::null_mut();
        ok((self.s.cuMemHostAlloc)(&mut address, count * 4, 0));
        // SAFETY: the memory was just allocated for us, and is aligned to a page.
        unsafe { std::slice::from_raw_parts_mut(address.cast::<f32>(), count) }
    }

    pub(crate) fn stream(&self) -> usize {
        let mut stream = 0;
        ok((self.s.cuStreamCreate)(&mut stream, 1));
        stream
    }

    pub(crate) fn event(&self) -> usize {
        let mut event = 0;
        ok((self.s.cuEventCreate)(&mut event, 3));
        event
    }

    /// Device memory with these values in it.
    pub(crate) fn upload<T: Copy>(&self, values: &[T]) -> u64 {
        let address = self.alloc(size_of_val(values));
        ok((self.s.cuMemcpyHtoD_v2)(address, values.as_ptr().cast(), size_of_val(values)));
        address
    }

    /// Values from device memory, after all queued work of the default stream.
    pub(crate) fn download<T: Copy + Default>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::default(); count];
        ok((self.s.cuMemcpyDtoH_v2)(values.as_mut_ptr().cast(), address, count * size_of::<T>()));
        values
    }

    /// Compiles a source for the device and returns the function with this name.
    pub(crate) fn function(&self, source: &str, name: &str) -> usize {
        let image = self.compile(source, &["--gpu-architecture=sm_89"]).unwrap_or_else(|log| panic!("{log}"));
        self.load(&image, name)
    }

    /// The image of a source, or the log.
    pub(crate) fn compile(&self, source: &str, options: &[&str]) -> Result<Vec<u8>, String> {
        let source = CString::new(source).unwrap();
        let options: Vec<CString> = options.iter().map(|o| CString::new(*o).unwrap()).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let (mut program, mut size) = (0, 0);
        let name = c"kernel.cu";
        ok((self.s.nvrtcCreateProgram)(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            0,
            ptr::null(),
            ptr::null(),
        ));
        let status = (self.s.nvrtcCompileProgram)(program, pointers.len() as i32, pointers.as_ptr());
        ok((self.s.nvrtcGetProgramLogSize)(program, &mut size));
        let mut log = vec![0u8; size];
        ok((self.s.nvrtcGetProgramLog)(program, log.as_mut_ptr().cast()));
        let result = if status == 0 {
            // There is no code for an architecture that no card has.
            let is_text = (self.s.nvrtcGetCUBINSize)(program, &mut size) != 0;
            if is_text {
                ok((self.s.nvrtcGetPTXSize)(program, &mut size));
            }
            let mut image = vec![0u8; size];
            let get = if is_text { self.s.nvrtcGetPTX } else { self.s.nvrtcGetCUBIN };
            ok(get(program, image.as_mut_ptr().cast()));
            Ok(image)
        } else {
            Err(format!("{status}: {}", CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap()))
        };
        ok((self.s.nvrtcDestroyProgram)(&mut program));
        result
    }

    pub(crate) fn load(&self, image: &[u8], name: &str) -> usize {
        let (mut module, mut function) = (0, 0);
        ok((self.s.cuModuleLoadData)(&mut module, image.as_ptr().cast()));
        let name = CString::new(name).unwrap();
        ok((self.s.cuModuleGetFunction)(&mut function, module, name.as_ptr()));
        function
    }

    /// Launches `grid` blocks of `block` threads, with pointers to the arguments.
    pub(crate) fn launch(
        &self,
        function: usize,
        grid: u32,
        block: u32,
        stream: usize,
        arguments: &[*const c_void],
    ) -> u32 {
        (self.s.cuLaunchKernel)(function, grid, 1, 1, block, 1, 1, 0, stream, arguments.as_ptr(), ptr::null())
    }
}

/// A pointer to an argument.
pub(crate) fn arg<T>(value: &T) -> *const c_void {
    ptr::from_ref(value).cast()
}

/// Checks that a call succeeded.
#[track_caller]
pub(crate) fn ok(status: u32) {
    assert_eq!(status, 0, "the call failed");
}

/// A kernel that adds one to each of `n` floats and writes the results elsewhere.
pub(crate) const ADD_ONE: &str = r#"
extern "C" __global__ void add_one(const float *x, float *y, unsigned n) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] + 1.0f;
}
"#;
