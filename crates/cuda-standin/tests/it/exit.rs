//! How a process ends that leaves something behind or touches forbidden memory.

use std::path::Path;

use crate::child;
use crate::standin::{Standin, arg, ok};

fn run(test: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = child::run(&format!("exit::{test}"), Path::new(""), variables);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn leaks_and_misuse_are_told_at_exit() {
    if child::folder().is_some() {
        let t = Standin::new(&[]);
        let (_, event, x) = (t.alloc(123), t.event(), t.alloc(4));
        ok((t.s.cuEventRecord)(event, 0));
        ok((t.s.cuMemFree_v2)(x));
        assert_ne!((t.s.cuMemFree_v2)(x), 0);
        let mut layout = 0;
        ok((t.s.cublasLtMatrixLayoutCreate)(&mut layout, 0, 1, 1, 1));
        return;
    }
    let (status, errors) = run("leaks_and_misuse_are_told_at_exit", &[]);
    assert_eq!(status, Some(0), "{errors}");
    for line in [
        "cuda-standin: misuse: cuMemFree_v2: allocation 2 was freed before: double free",
        "cuda-standin: alive: device allocation 1 of 123 bytes is not freed",
        "cuda-standin: alive: 1 x event not destroyed",
        "cuda-standin: alive: 1 x cublasLt matrix layout not destroyed",
        "cuda-standin: alive: the context of device 0 is still retained, 1 x",
    ] {
        assert!(errors.lines().any(|l| l == line), "{line}: {errors}");
    }
    let (status, _) = run("leaks_and_misuse_are_told_at_exit", &[("STANDIN_STRICT", "1")]);
    assert_eq!(status, Some(86));
}

#[test]
fn a_process_that_leaves_nothing_behind_says_nothing() {
    if child::folder().is_some() {
        let t = Standin::new(&[]);
        ok((t.s.cuMemFree_v2)(t.alloc(123)));
        ok((t.s.cuDevicePrimaryCtxRelease_v2)(0));
        return;
    }
    let (status, errors) =
        run("a_process_that_leaves_nothing_behind_says_nothing", &[("STANDIN_STRICT", "1")]);
    assert_eq!((status, errors.contains("cuda-standin:")), (Some(0), false), "{errors}");
}

#[test]
fn settings_in_the_environment_that_make_no_sense_are_told() {
    if child::folder().is_some() {
        Standin::new(&[]);
        return;
    }
    let (_, errors) =
        run("settings_in_the_environment_that_make_no_sense_are_told", &[("STANDIN_CAPACITY", "4GiB")]);
    assert!(
        errors.contains("cuda-standin: misuse: the environment: STANDIN_CAPACITY=4GiB is not a number"),
        "{errors}"
    );
}

/// A host that follows a device pointer crashes, instead of reading memory that it could not reach
/// on a card.
#[test]
fn device_pointers_are_not_for_the_host() {
    if child::folder().is_some() {
        let t = Standin::new(&[]);
        let x = t.upload(&[1.0f32]);
        eprintln!("before");
        // SAFETY: it is not sound; the process is supposed to die here.
        let value = unsafe { std::ptr::read_volatile(x as *const f32) };
        eprintln!("after {value}");
        return;
    }
    let (status, errors) = run("device_pointers_are_not_for_the_host", &[]);
    assert_eq!(status, None, "{errors}");
    assert!(errors.contains("before") && !errors.contains("after"), "{errors}");
    assert!(
        errors.contains("cuda-standin: the host (or a kernel, by a pointer that is no argument) followed"),
        "{errors}"
    );
}

#[test]
fn a_kernel_that_strays_far_is_named() {
    if child::folder().is_some() {
        let t = Standin::new(&[]);
        let (y, kernel) =
            (t.alloc(4), t.function("extern \"C\" __global__ void far(int *y) { y[100000] = 1; }", "far"));
        ok(t.launch(kernel, 1, 1, 0, &[arg(&y)]));
        eprintln!("launched");
        _ = (t.s.cuStreamSynchronize)(0);
        eprintln!("after");
        return;
    }
    let (status, errors) = run("a_kernel_that_strays_far_is_named", &[]);
    assert_eq!(status, None, "{errors}");
    assert!(errors.contains("launched") && !errors.contains("after"), "{errors}");
    assert!(
        errors.contains(
            "cuda-standin: kernel `far` went outside of every allocation, to the device address 0x"
        ),
        "{errors}"
    );
}
