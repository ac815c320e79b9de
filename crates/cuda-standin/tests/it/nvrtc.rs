//! Programs: what compiles, the messages for what does not, and where images may be loaded.

use std::ptr;

use crate::child;
use crate::standin::{ADD_ONE, Standin, arg, ok};

#[test]
fn errors_are_in_the_log_with_the_sources_own_lines() {
    let t = Standin::new(&[]);
    let check = |source: &str, options: &[&str], parts: &[&str]| {
        let log = t.compile(source, options).unwrap_err();
        for part in parts {
            assert!(log.contains(part), "{part}: {log}");
        }
    };
    check(
        "\n\nextern \"C\" __global__ void f() { undeclared = 1; }",
        &[],
        &["6: ", "kernel.cu:3:", "undeclared"],
    );
    check(
        "__device__ void f() {\n__shared__ float\n s[3];\n undeclared = 1; }",
        &[],
        &["6: ", "kernel.cu:4:"],
    );
    check("#include <stdint.h>\n", &[], &["6: ", "stdint.h"]);
    check("__shared__ float s[3];", &[], &["6: ", "outside of a function"]);
    check(ADD_ONE, &["--gpu-architecture=sm_12"], &["5: ", "sm_12"]);
    check(ADD_ONE, &["--optimise-everything"], &["5: unrecognized option --optimise-everything"]);
}

#[test]
fn macros_and_the_architecture_reach_the_source() {
    let source = r#"
#define KERNEL(name, value) extern "C" __global__ void name(unsigned *y) { *y = value; }
KERNEL(a, NUMBER)
KERNEL(b, __CUDA_ARCH__)
#ifdef FLAG
KERNEL(c, 1)
#endif
"#;
    let t = Standin::new(&[]);
    let options = ["--gpu-architecture=compute_80", "-DNUMBER=41+1", "-D", "FLAG", "--std=c++17"];
    let image = t.compile(source, &options).unwrap();
    let y = t.alloc(4);
    for (name, expected) in [("a", 42), ("b", 800), ("c", 1)] {
        ok(t.launch(t.load(&image, name), 1, 1, 0, &[arg(&y)]));
        assert_eq!(t.download::<u32>(y, 1), [expected], "{name}");
    }
}

/// A cached image is used by a process that never compiled it, even if no compiled library is
/// cached.
#[test]
fn images_stand_for_themselves() {
    let here = std::env::temp_dir().join(format!("cuda-standin-test-{}", std::process::id()));
    if let Some(folder) = child::folder() {
        let t = Standin::new(&[]);
        let image = std::fs::read(folder.join("image")).unwrap();
        let (x, n) = (t.upload(&[1.0f32]), 1u32);
        ok(t.launch(t.load(&image, "add_one"), 1, 1, 0, &[arg(&x), arg(&x), arg(&n)]));
        assert_eq!(t.download::<f32>(x, 1), [2.0]);
        return;
    }
    let image = Standin::new(&[]).compile(ADD_ONE, &["--gpu-architecture=sm_89"]).unwrap();
    std::fs::create_dir_all(&here).unwrap();
    std::fs::write(here.join("image"), image).unwrap();
    let output = child::run(
        "nvrtc::images_stand_for_themselves",
        &here,
        &[("STANDIN_CACHE", &here.join("cache").display().to_string())],
    );
    let kept = std::fs::read_dir(here.join("cache")).unwrap().count();
    std::fs::remove_dir_all(&here).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(kept, 1);
}

#[test]
fn images_run_on_the_devices_that_they_are_for() {
    let check = |arch: &str, (major, minor): (i64, i64), expected: u32| {
        let t = Standin::new(&[("major", major), ("minor", minor)]);
        let image = t.compile(ADD_ONE, &[&format!("--gpu-architecture={arch}")]).unwrap();
        let mut module = 0;
        assert_eq!(
            (t.s.cuModuleLoadData)(&mut module, image.as_ptr().cast()),
            expected,
            "{arch} on {major}.{minor}"
        );
    };
    check("sm_80", (8, 9), 0);
    check("sm_90", (8, 9), 209);
    check("sm_75", (8, 9), 209);
}

#[test]
fn what_is_no_image_or_not_in_it() {
    let t = Standin::new(&[]);
    let mut handle = 0;
    assert_eq!((t.s.cuModuleLoadData)(&mut handle, c".version 8.0\n".as_ptr()), 200);
    assert_eq!((t.s.cuModuleLoadData)(&mut handle, ptr::null()), 200);
    let image = t.compile(ADD_ONE, &["--gpu-architecture=sm_89"]).unwrap();
    ok((t.s.cuModuleLoadData)(&mut handle, image.as_ptr().cast()));
    let mut function = 0;
    assert_eq!((t.s.cuModuleGetFunction)(&mut function, handle, c"add_two".as_ptr()), 500);
    ok((t.s.cuModuleGetFunction)(&mut function, handle, c"add_one".as_ptr()));
    // Queued kernels still run after their module is unloaded; new ones do not.
    let (x, n) = (t.upload(&[1.0f32]), 1u32);
    let arguments = [arg(&x), arg(&x), arg(&n)];
    ok(t.launch(function, 1, 1, 0, &arguments));
    ok((t.s.cuModuleUnload)(handle));
    assert_eq!(t.download::<f32>(x, 1), [2.0]);
    assert_eq!(t.launch(function, 1, 1, 0, &arguments), 400);
    t.expect_misuse("is of no loaded module");
}
