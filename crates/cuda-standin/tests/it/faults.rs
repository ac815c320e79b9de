//! Configured faults happen where they are configured, and nowhere else.

use std::ffi::{CStr, c_int};
use std::ptr;

use crate::standin::{
    ADD_ONE, COPIES_IN, INVALID_VALUE, KERNELS, LIVE, OBJECTS, OUT_OF_MEMORY, PEAK, Standin, UNPINNED, arg,
    ok,
};

#[test]
fn devices_are_as_configured() {
    let t = Standin::new(&[
        ("devices", 3),
        ("major", 12),
        ("minor", 0),
        ("capacity", 1 << 30),
        ("driver_version", 13_000),
    ]);
    let (mut count, mut version, mut major, mut bytes) = (0, 0, 0, 0);
    ok((t.s.cuDeviceGetCount)(&mut count));
    ok((t.s.cuDriverGetVersion)(&mut version));
    ok((t.s.cuDeviceGetAttribute)(&mut major, 75, 2));
    ok((t.s.cuDeviceTotalMem_v2)(&mut bytes, 2));
    assert_eq!((count, version, major, bytes), (3, 13_000, 12, 1 << 30));
    assert_eq!((t.s.cuDeviceGet)(&mut count, 3), 101);
    assert_eq!((t.s.cuDeviceGetAttribute)(&mut major, 9999, 0), INVALID_VALUE);
    let mut name = [0; 64];
    ok((t.s.cuDeviceGetName)(name.as_mut_ptr(), 64, 1));
    // SAFETY: the call has put a zero behind the name.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }, c"CUDA stand-in 1");
}

#[test]
fn there_may_be_no_device_or_no_driver_that_works() {
    for (setting, expected) in [(("devices", 0), 100), (("init_error", 803), 803), (("init_error", 999), 999)]
    {
        let t = Standin::bare(&[setting]);
        assert_eq!((t.s.cuInit)(0), expected);
        let mut name = ptr::null();
        ok((t.s.cuGetErrorName)(expected, &mut name));
        assert!(!name.is_null());
    }
}

#[test]
fn unknown_settings_are_refused() {
    let t = Standin::bare(&[]);
    assert_eq!((t.s.standin_set)(c"no_such_setting".as_ptr(), 1), INVALID_VALUE);
}

#[test]
fn memory_has_an_end_and_books() {
    let own = 64 << 20;
    let t = Standin::new(&[("capacity", own + 4096), ("context_bytes", own)]);
    let free = || {
        let (mut free, mut total) = (0, 0);
        ok((t.s.cuMemGetInfo_v2)(&mut free, &mut total));
        assert_eq!(total, own as usize + 4096);
        free
    };
    assert_eq!(free(), 4096);
    let (x, y) = (t.alloc(1000), t.alloc(2048));
    assert_eq!((free(), t.book(LIVE)), (1024, 3048));
    let mut z = 0;
    assert_eq!((t.s.cuMemAlloc_v2)(&mut z, 1025), OUT_OF_MEMORY);
    assert_eq!((t.s.cuMemAlloc_v2)(&mut z, usize::MAX), OUT_OF_MEMORY);
    assert_eq!((t.s.cuMemAlloc_v2)(&mut z, 0), INVALID_VALUE);
    ok((t.s.cuMemFree_v2)(x));
    assert_eq!((free(), t.book(LIVE), t.book(PEAK)), (2048, 2048, 3048));
    ok((t.s.standin_new_peaks)());
    assert_eq!(t.book(PEAK), 2048);
    ok((t.s.cuMemFree_v2)(y));
    assert_eq!(t.book(LIVE), 0);
}

#[test]
fn the_nth_allocation_fails() {
    let t = Standin::new(&[("fail_alloc", 2), ("fail_pinned", 1)]);
    let (mut x, mut p) = (0, ptr::null_mut());
    let statuses: Vec<u32> = (0..3).map(|_| (t.s.cuMemAlloc_v2)(&mut x, 8)).collect();
    assert_eq!(statuses, [0, OUT_OF_MEMORY, 0]);
    assert_eq!((t.s.cuMemHostAlloc)(&mut p, 8, 0), OUT_OF_MEMORY);
    ok((t.s.cuMemHostAlloc)(&mut p, 8, 0));
}

#[test]
fn launches_and_copies_are_refused_on_request() {
    let t = Standin::new(&[]);
    let (x, n, kernel) = (t.upload(&[1.0f32; 4]), 4u32, t.function(ADD_ONE, "add_one"));
    let arguments = [arg(&x), arg(&x), arg(&n)];
    t.set("fail_launch", 1);
    assert_eq!(t.launch(kernel, 1, 4, 0, &arguments), 701);
    ok(t.launch(kernel, 1, 4, 0, &arguments));
    t.set("fail_copy", 1);
    t.set("fail_code", 999);
    assert_eq!((t.s.cuMemcpyDtoH_v2)([0u8; 4].as_mut_ptr().cast(), x, 4), 999);
    assert_eq!(t.download::<f32>(x, 4), [2.0; 4]);
    assert_eq!((t.book(KERNELS), t.book(COPIES_IN), t.book(UNPINNED)), (1, 1, 2));
}

#[test]
fn a_kernel_may_be_the_end_of_its_context() {
    let t = Standin::new(&[("lose_at_kernel", 2), ("lose_code", 700)]);
    let (x, n, kernel) = (t.upload(&[1.0f32; 4]), 4u32, t.function(ADD_ONE, "add_one"));
    for _ in 0..3 {
        ok(t.launch(kernel, 1, 4, 0, &[arg(&x), arg(&x), arg(&n)]));
    }
    assert_eq!((t.s.cuStreamSynchronize)(0), 700);
    assert_eq!((t.s.cuCtxSynchronize)(), 700);
    assert_eq!((t.s.cuMemFree_v2)(x), 700);
    assert_eq!(t.book(KERNELS), 1);
    // What can no longer be freed is not a leak.
    assert_eq!(t.report(), [""; 0]);
}

#[test]
fn a_device_is_lost_at_the_nth_call_and_stays_lost() {
    let t = Standin::new(&[]);
    let (x, stream) = (t.alloc(8), t.stream());
    t.set("lose_at_call", 3);
    ok((t.s.cuStreamSynchronize)(stream));
    ok((t.s.cuCtxSynchronize)());
    for _ in 0..2 {
        assert_eq!((t.s.cuStreamSynchronize)(stream), 46);
        assert_eq!((t.s.cuMemFree_v2)(x), 46);
        assert_eq!((t.s.cuInit)(0), 46);
    }
    let mut handle = 0;
    assert_eq!((t.s.cublasLtCreate)(&mut handle), 13);
    ok((t.s.standin_reset)());
    ok((t.s.cuInit)(0));
}

#[test]
fn objects_are_counted() {
    let t = Standin::new(&[]);
    let before = t.book(OBJECTS);
    let (stream, event) = (t.stream(), t.event());
    assert_eq!(t.book(OBJECTS), before + 2);
    ok((t.s.cuStreamDestroy_v2)(stream));
    ok((t.s.cuEventDestroy_v2)(event));
    assert_eq!(t.book(OBJECTS), before);
}

#[test]
fn versions_that_are_played() {
    let t = Standin::bare(&[("nvrtc_version", 13_000)]);
    let (mut major, mut minor, mut count): (c_int, c_int, c_int) = (0, 0, 0);
    ok((t.s.nvrtcVersion)(&mut major, &mut minor));
    ok((t.s.nvrtcGetNumSupportedArchs)(&mut count));
    let mut archs = vec![0; count as usize];
    ok((t.s.nvrtcGetSupportedArchs)(archs.as_mut_ptr()));
    assert_eq!((major, minor), (13, 0));
    assert!(archs.contains(&75) && archs.contains(&120) && !archs.contains(&70));
}
