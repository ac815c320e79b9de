//! Talking to the stand-in, if it is what the loader found: it has functions that no driver has.
#![allow(dead_code)] // two targets use some of it each

use std::ffi::{CString, c_char};

use vram_device::cuda::api::driver::sys;

/// Figures that the stand-in keeps, in its order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Books {
    figures: [u64; 32],
}

/// A function of the stand-in; `None` with any other driver. The driver has been probed.
fn function<F: Copy>(name: &str) -> Option<F> {
    // SAFETY: the driver is there (a device was opened), so that this does not panic; the types below are those of the
    // stand-in's functions of these names, which no driver has.
    unsafe { sys::culib().get::<F>(name.as_bytes()).ok().map(|symbol| *symbol) }
}

/// Whether the driver is the stand-in.
pub(crate) fn is_here() -> bool {
    function::<unsafe extern "C" fn() -> u32>("standin_reset").is_some()
}

/// Changes a setting of the stand-in.
pub(crate) fn set(name: &str, value: i64) {
    let set: unsafe extern "C" fn(*const c_char, i64) -> u32 = function("standin_set").unwrap();
    let c_name = CString::new(name).unwrap();
    // SAFETY: the name ends with a zero.
    assert_eq!(unsafe { set(c_name.as_ptr(), value) }, 0, "{name}");
}

/// What went wrong, a line each; what is alive is left out.
pub(crate) fn misuse() -> Vec<String> {
    let report: unsafe extern "C" fn(*mut c_char, usize) -> usize = function("standin_report").unwrap();
    let mut bytes = vec![0u8; 1 << 20];
    // SAFETY: there is room for as many bytes as is said.
    let len = unsafe { report(bytes.as_mut_ptr().cast(), bytes.len()) };
    let text = String::from_utf8_lossy(&bytes[..len.clamp(1, bytes.len()) - 1]).into_owned();
    text.lines().filter(|line| !line.starts_with("alive")).map(str::to_owned).collect()
}

impl Books {
    pub(crate) fn now() -> Books {
        let read: unsafe extern "C" fn(*mut u64, usize) -> usize = function("standin_books").unwrap();
        let mut books = Books::default();
        // SAFETY: there is room for as many figures as is said.
        unsafe { read(books.figures.as_mut_ptr(), books.figures.len()) };
        books
    }

    /// Bytes of device memory that are allocated.
    pub(crate) fn live(&self) -> u64 {
        self.figures[0]
    }

    /// The most that they were.
    pub(crate) fn peak(&self) -> u64 {
        self.figures[1]
    }

    /// The most bytes of pinned memory.
    pub(crate) fn peak_pinned(&self) -> u64 {
        self.figures[3]
    }

    /// Times that the host waited.
    pub(crate) fn host_waits(&self) -> u64 {
        self.figures[14]
    }
}
