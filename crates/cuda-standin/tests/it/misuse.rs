//! Mistakes of a caller are recorded, and mostly refused as well.

use std::ptr;

use crate::standin::{ADD_ONE, ILLEGAL_ADDRESS, INVALID_HANDLE, INVALID_VALUE, Standin, arg, ok};

#[test]
fn memory_is_freed_once_and_from_its_beginning() {
    let t = Standin::new(&[]);
    let x = t.alloc(1000);
    assert_eq!((t.s.cuMemFree_v2)(x + 256), INVALID_VALUE);
    t.expect_misuse("is not where device allocation 1 of 1000 bytes begins");
    ok((t.s.cuMemFree_v2)(x));
    ok((t.s.standin_forgive)());
    assert_eq!((t.s.cuMemFree_v2)(x), INVALID_VALUE);
    t.expect_misuse("cuMemFree_v2: allocation 1 was freed before: double free");
    ok((t.s.standin_forgive)());
    assert_eq!((t.s.cuMemFree_v2)(12_345), INVALID_VALUE);
    t.expect_misuse("was never allocated");
    ok((t.s.cuMemFree_v2)(0));
}

#[test]
fn memory_that_queued_work_needs_is_freed() {
    let t = Standin::new(&[]);
    let (x, stream, host) = (t.alloc(400), t.stream(), t.pinned(100));
    ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 400, stream));
    ok((t.s.cuMemFree_v2)(x));
    t.expect_misuse("is freed, and the host does not know that this is done: copy to the device");
    ok((t.s.standin_forgive)());
    assert_eq!((t.s.cuStreamSynchronize)(stream), ILLEGAL_ADDRESS);
    t.expect_misuse("was freed before that ran: use after free");
    // The context is gone too.
    let mut y = 0;
    assert_eq!((t.s.cuMemAlloc_v2)(&mut y, 4), ILLEGAL_ADDRESS);
}

#[test]
fn pinned_memory_is_freed_before_its_copy_ran() {
    let t = Standin::new(&[]);
    let (x, stream, host) = (t.alloc(400), t.stream(), t.pinned(100));
    ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 400, stream));
    ok((t.s.cuMemFreeHost)(host.as_mut_ptr().cast()));
    t.expect_misuse("pinned allocation 2 of 400 bytes is freed, and the host does not know");
    assert_eq!((t.s.cuStreamSynchronize)(stream), ILLEGAL_ADDRESS);
}

#[test]
fn memory_may_be_freed_when_the_host_knows() {
    let t = Standin::new(&[]);
    let (x, stream, host) = (t.alloc(400), t.stream(), t.pinned(100));
    ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 400, stream));
    ok((t.s.cuStreamSynchronize)(stream));
    ok((t.s.cuMemFreeHost)(host.as_mut_ptr().cast()));
    ok((t.s.cuMemFree_v2)(x));
    assert_eq!(t.misuse(), [""; 0]);
}

#[test]
fn kernels_on_memory_that_is_gone_or_never_was() {
    for freed in [true, false] {
        let t = Standin::new(&[]);
        let (x, y, n) = (t.upload(&[1.0f32; 4]), t.alloc(16), 4u32);
        let kernel = t.function(ADD_ONE, "add_one");
        let wrong = if freed { y } else { y + 100_000 };
        if freed {
            ok((t.s.cuMemFree_v2)(y));
        }
        ok(t.launch(kernel, 1, 4, 0, &[arg(&x), arg(&wrong), arg(&n)]));
        assert_eq!((t.s.cuStreamSynchronize)(0), ILLEGAL_ADDRESS);
        t.expect_misuse(if freed {
            "which is of allocation 2, which was freed: use after free"
        } else {
            "in no allocation"
        });
    }
}

#[test]
fn a_kernel_that_writes_behind_its_operand() {
    let t = Standin::new(&[]);
    let (x, y, n) = (t.upload(&[1.0f32; 8]), t.alloc(16), 5u32);
    let kernel = t.function(ADD_ONE, "add_one");
    ok(t.launch(kernel, 1, 8, 0, &[arg(&x), arg(&y), arg(&n)]));
    ok((t.s.cuStreamSynchronize)(0));
    assert_eq!(t.misuse(), [""; 0]);
    ok((t.s.cuMemFree_v2)(y));
    t.expect_misuse("a kernel wrote outside of device allocation 2 of 16 bytes");
}

#[test]
fn copies_out_of_range() {
    let t = Standin::new(&[]);
    let (x, host) = (t.alloc(400), t.pinned(100));
    let check = |status: u32, part: &str| {
        assert_eq!(status, INVALID_VALUE);
        t.expect_misuse(part);
        ok((t.s.standin_forgive)());
    };
    let from = host.as_ptr();
    check(
        (t.s.cuMemcpyHtoDAsync_v2)(x + 4, from.cast(), 400, 0),
        "out of range: bytes 4..404 of device allocation 1",
    );
    check((t.s.cuMemcpyHtoDAsync_v2)(x + 400, from.cast(), 4, 0), "is in no allocation of a device");
    check(
        (t.s.cuMemcpyHtoDAsync_v2)(x, from.wrapping_add(1).cast(), 400, 0),
        "out of range: bytes 4..404 of pinned allocation 2",
    );
    check((t.s.cuMemcpyHtoDAsync_v2)(x, x as *const _, 4, 0), "is a device's address, not the host's");
    ok((t.s.cuMemcpyHtoDAsync_v2)(x + 400, from.cast(), 0, 0));
}

#[test]
fn handles_that_are_gone() {
    let t = Standin::new(&[]);
    let (stream, event) = (t.stream(), t.event());
    ok((t.s.cuStreamDestroy_v2)(stream));
    ok((t.s.cuEventDestroy_v2)(event));
    let spare = t.event();
    for status in [
        (t.s.cuStreamSynchronize)(stream),
        (t.s.cuStreamDestroy_v2)(stream),
        (t.s.cuEventRecord)(spare, stream),
        (t.s.cuEventRecord)(event, 0),
        (t.s.cuEventDestroy_v2)(event),
        (t.s.cuEventQuery)(event),
        // An event is not a stream.
        (t.s.cuStreamSynchronize)(spare),
        (t.s.cuModuleUnload)(7),
    ] {
        assert_eq!(status, INVALID_HANDLE);
    }
    assert_eq!(t.misuse().len(), 8);
}

#[test]
fn a_stream_that_is_destroyed_still_does_its_work() {
    let t = Standin::new(&[]);
    let (x, stream, event, host) = (t.alloc(4), t.stream(), t.event(), t.pinned(1));
    host[0] = 3.0;
    ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 4, stream));
    ok((t.s.cuEventRecord)(event, stream));
    ok((t.s.cuStreamDestroy_v2)(stream));
    ok((t.s.cuEventSynchronize)(event));
    assert_eq!(t.download::<f32>(x, 1), [3.0]);
    assert_eq!(t.misuse(), [""; 0]);
}

#[test]
fn things_of_another_context() {
    let t = Standin::new(&[("devices", 2)]);
    let (stream, kernel) = (t.stream(), t.function(ADD_ONE, "add_one"));
    let mut other = 0;
    ok((t.s.cuDevicePrimaryCtxRetain)(&mut other, 1));
    ok((t.s.cuCtxSetCurrent)(other));
    let event = t.event();
    assert_eq!((t.s.cuEventRecord)(event, stream), INVALID_HANDLE);
    t.expect_misuse("the event is of another context than the stream");
    ok((t.s.standin_forgive)());
    let (x, n) = (0u64, 0u32);
    assert_eq!(t.launch(kernel, 1, 1, stream, &[arg(&x), arg(&x), arg(&n)]), 201);
    t.expect_misuse("kernel `add_one`, its stream and the current context are not of one context");
}

#[test]
fn what_is_known_of_a_pointer() {
    let t = Standin::new(&[]);
    let (x, host) = (t.alloc(400), t.pinned(100).as_ptr() as u64);
    let ask = |attribute, pointer| {
        let mut value = 0u64;
        let status = (t.s.cuPointerGetAttribute)((&raw mut value).cast(), attribute, pointer);
        if status == 0 { Ok(value) } else { Err(status) }
    };
    let (context, kind, device, start, bytes) = (1, 2, 9, 11, 12);
    assert_eq!([context, kind, device].map(|a| ask(a, x + 399)), [Ok(t.context as u64), Ok(2), Ok(0)]);
    assert_eq!([start, bytes].map(|a| ask(a, x + 399)), [Ok(x), Ok(400)]);
    assert_eq!([kind, start, bytes].map(|a| ask(a, host)), [Ok(1), Ok(host), Ok(400)]);
    for nowhere in [0, 64, x + 400] {
        assert_eq!(ask(kind, nowhere), Err(INVALID_VALUE));
    }
    assert_eq!(ask(3, x), Err(INVALID_VALUE));
    assert_eq!(t.misuse(), [""; 0]);
}

#[test]
fn nothing_works_without_a_context() {
    let t = Standin::new(&[]);
    ok((t.s.cuCtxSetCurrent)(0));
    let mut x = 0;
    assert_eq!((t.s.cuMemAlloc_v2)(&mut x, 4), 201);
    t.expect_misuse("no context is current on this thread");
    let mut current = 7;
    ok((t.s.cuCtxGetCurrent)(&mut current));
    assert_eq!(current, 0);
    ok((t.s.cuCtxSetCurrent)(t.context));
    ok((t.s.cuCtxGetCurrent)(&mut current));
    assert_eq!(current, t.context);
    // Another thread has its own.
    let status = std::thread::scope(|s| s.spawn(|| (t.s.cuMemAlloc_v2)(&mut x, 4)).join().unwrap());
    assert_eq!(status, 201);
}

#[test]
fn a_context_that_is_released_too_early() {
    let t = Standin::new(&[]);
    let (x, _, host) = (t.alloc(400), t.event(), t.pinned(100));
    ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 400, t.stream()));
    ok((t.s.cuDevicePrimaryCtxRelease_v2)(0));
    let report = t.report();
    for part in [
        "misuse: cuDevicePrimaryCtxRelease_v2: the last release of device 0's context drops 1 operations",
        "leak: with the context of device 0: device allocation 1 of 400 bytes was not freed",
        "leak: with the context of device 0: 1 x stream not destroyed",
        "leak: with the context of device 0: 1 x event not destroyed",
    ] {
        assert!(report.iter().any(|l| l == part), "{part}: {report:?}");
    }
    assert_eq!((t.s.cuDevicePrimaryCtxRelease_v2)(0), 201);
    let mut y = 0;
    assert_eq!((t.s.cuMemAlloc_v2)(&mut y, 4), 709);
}

#[test]
fn what_is_taken_and_given_back_leaves_nothing_to_report() {
    let t = Standin::new(&[]);
    let (x, stream, event, host) = (t.alloc(400), t.stream(), t.event(), t.pinned(100));
    host.fill(0.5);
    ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 400, stream));
    ok((t.s.cuEventRecord)(event, stream));
    ok((t.s.cuEventSynchronize)(event));
    ok((t.s.cuMemFree_v2)(x));
    ok((t.s.cuMemFreeHost)(host.as_mut_ptr().cast()));
    ok((t.s.cuEventDestroy_v2)(event));
    ok((t.s.cuStreamDestroy_v2)(stream));
    ok((t.s.cuDevicePrimaryCtxRelease_v2)(0));
    assert_eq!(t.report(), [""; 0]);
    assert_eq!((t.s.standin_report)(ptr::null_mut(), 0), 1);
}
