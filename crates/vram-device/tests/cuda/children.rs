//! Machines that lack something, and devices that fail: each in a process of its own, because libraries are loaded once and the
//! stand-in's faults are for all.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use vram_device::cuda::{Cuda, CudaMatmul, CudaOptions};
use vram_device::{Budget, Device, DeviceError, KernelsExt, Lifetime, Queue, Tier, ops};
use vram_types::DType::F32;

use crate::adopt::{self, Raw};
use crate::standin::{self, Books};
use crate::util::{allocate, budget, busy, cache, f32s, get, part, put, stage, upload, values, view_mut};

/// Which case a child is to run.
const CASE: &str = "VRAM_CUDA_CASE";

const CASES: [(&str, fn()); 10] = [
    ("reason", reason),
    ("own products", own_products),
    ("lost", lost),
    ("out of memory", out_of_memory),
    ("refused", refused),
    ("clean", clean),
    ("books", books),
    ("staging", staging),
    ("lent", adopt::late),
    ("not lent", adopt::memory_that_cannot_be_taken_in_is_refused_and_left_to_its_owner),
];

/// What a child runs. In the parent there is nothing to do.
#[test]
fn child() {
    let Ok(name) = std::env::var(CASE) else { return };
    let (_, case) = CASES.iter().find(|(known, _)| *known == name).unwrap();
    case();
}

/// Runs a case in a child that finds libraries in certain folders, and gives what it printed.
fn run(case: &str, libraries: Option<&Path>, settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "children::child", "--nocapture", "--test-threads=1"]).env(CASE, case);
    if let Some(libraries) = libraries {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    let output = command.envs(settings.iter().copied()).output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{case} with {settings:?}: {}\n{text}", output.status);
    text
}

/// The folder in which the loader finds the stand-in.
fn standin_folder() -> Option<PathBuf> {
    let paths = std::env::var_os("LD_LIBRARY_PATH")?;
    let found = std::env::split_paths(&paths)
        .find(|folder| folder.join("libcuda.so").exists() || folder.join("libcuda.so.1").exists())?;
    // The parent does not load it: it may be a card's.
    let text = run("reason", None, &[("STANDIN_DEVICES", "0")]);
    if !text.contains("sees no card") {
        return None;
    }
    Some(found)
}

/// A case that needs the stand-in; says so where it is not what the loader finds.
fn with_standin(case: &str, settings: &[(&str, &str)]) -> Option<String> {
    if standin_folder().is_none() {
        assert!(std::env::var_os("VRAM_CUDA_REQUIRED").is_none(), "there is no stand-in");
        println!("skipped: the loader finds no stand-in for the driver");
        return None;
    }
    Some(run(case, None, settings))
}

/// Prints whether there is a device, or why not.
fn reason() {
    match Cuda::new(CudaOptions { cache: cache(), ..Default::default() }) {
        Ok(cuda) => println!("reason: none, {cuda:?}"),
        Err(error @ DeviceError::Unavailable { .. }) => println!("reason: {error}"),
        Err(error) => panic!("{error}"),
    }
    println!("devices: {:?}", vram_device::cuda::devices());
    for backend in vram_device::backends().iter().filter(|backend| backend.name == "cuda") {
        println!("listed: {:?}", backend.device.as_ref().map(|device| device.info().name.clone()));
    }
}

#[test]
fn without_a_driver_the_reason_is_that() {
    let empty = tempfile::tempdir().unwrap();
    let text = run("reason", Some(empty.path()), &[]);
    if text.contains("reason: none") {
        return println!("skipped: the system's own folders have a driver");
    }
    assert!(text.contains("the cuda backend is not available: there is no NVIDIA driver here"), "{text}");
    assert!(text.contains("libcuda") && text.contains("devices: []"), "{text}");
}

#[test]
fn without_a_card_the_reason_is_that() {
    for (setting, value, expected) in [
        ("STANDIN_DEVICES", "0", "the NVIDIA driver is here and sees no card"),
        ("STANDIN_INIT_ERROR", "100", "the NVIDIA driver is here and sees no card"),
        ("STANDIN_INIT_ERROR", "803", "different versions"),
        ("STANDIN_INIT_ERROR", "999", "the NVIDIA driver does not start"),
        ("STANDIN_MAJOR", "3", "the card is an sm_39"),
    ] {
        let Some(text) = with_standin("reason", &[(setting, value)]) else { return };
        assert!(text.contains("the cuda backend is not available") && text.contains(expected), "{text}");
    }
}

/// A folder with links to some of the stand-in's names.
fn only(names: &[&str]) -> Option<tempfile::TempDir> {
    let from = standin_folder()?;
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let link = std::fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().path());
        let link = link
            .into_iter()
            .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&format!("lib{name}.so")));
        let target = std::fs::canonicalize(link.unwrap()).unwrap();
        std::os::unix::fs::symlink(target, folder.path().join(format!("lib{name}.so"))).unwrap();
    }
    Some(folder)
}

#[test]
fn without_nvrtc_the_reason_is_that() {
    let Some(folder) = only(&["cuda"]) else { return println!("skipped: there is no stand-in") };
    let text = run("reason", Some(folder.path()), &[]);
    assert!(text.contains("there is no NVRTC here") && text.contains("nvidia-cuda-nvrtc-cu12"), "{text}");
}

#[test]
fn without_cublas_our_own_kernels_are_used_and_it_is_said() {
    let Some(folder) = only(&["cuda", "nvrtc"]) else { return println!("skipped: there is no stand-in") };
    run("own products", Some(folder.path()), &[]);
}

fn own_products() {
    let cuda = Cuda::new(CudaOptions { cache: cache(), ..Default::default() }).unwrap();
    assert!(cuda.info().name.contains("products by its own kernels"), "{}", cuda.info().name);
    assert!(cuda.notes().iter().any(|note| note.contains("libcublasLt")), "{:?}", cuda.notes());
    assert!(format!("{cuda:?}").contains("libcublasLt"));
    let error = Cuda::new(CudaOptions { matmul: CudaMatmul::CublasLt, cache: cache(), ..Default::default() })
        .unwrap_err();
    assert!(
        matches!(error, DeviceError::Unavailable { .. }) && error.to_string().contains("libcublasLt"),
        "{error}"
    );
}

fn device() -> Cuda {
    Cuda::new(CudaOptions { cache: cache(), ..Default::default() }).unwrap()
}

#[test]
fn a_lost_device_says_so_wherever_it_is_asked_and_is_not_called_again() {
    with_standin("lost", &[]);
}

fn lost() {
    let cuda = device();
    let mut region = allocate(&cuda, 4096);
    let mut target = part(allocate(&cuda, 4096));
    let mut staging = stage(&cuda, &[1; 4096]);
    let (raw, owner) = (Raw::new(&cuda, 4096), Arc::new(()));
    let lent = adopt::adopt(&cuda, &raw, 4096, owner.clone());
    busy(&cuda, &mut region);
    let before = cuda.upload(&staging, 0..4096, &mut target, 0).unwrap();
    cuda.wait(before).unwrap();
    let code = 700;
    standin::set("lose_code", code);
    standin::set("lose_at_kernel", 1);
    busy(&cuda, &mut region);
    // A kernel's fault shows where the host next waits for it.
    let lost = |what: &str, result: Result<(), DeviceError>| {
        assert!(matches!(result, Err(DeviceError::Lost { .. })), "{what} gave {result:?}");
    };
    lost("a wait", cuda.ticket(Queue::Compute).and_then(|ticket| cuda.wait(ticket)));
    assert!(cuda.is_lost());
    // A call of the driver would give another reason from here on.
    standin::set("lose_code", 999);
    let waits = Books::now().host_waits();
    staging.host_mut().fill(2);
    lost("an upload", cuda.upload(&staging, 0..4096, &mut target, 0).map(drop));
    lost("a kernel", cuda.call(ops::Unary::silu(view_mut(&mut region, F32, &[1024])), None));
    lost("a download", cuda.download(&region, 0, &mut [0; 4]));
    lost("an allocation", cuda.allocate(budget().reserve(Lifetime::Pass, 64).unwrap()).map(drop));
    lost("staging", cuda.stage(budget().reserve(Lifetime::Pass, 64).unwrap()).map(drop));
    lost("a ticket", cuda.ticket(Queue::Copy).map(drop));
    lost("an order", cuda.order(Queue::Compute, before));
    lost("a question", cuda.is_done(before).map(drop));
    lost("the memory", cuda.memory().map(drop));
    let error = cuda.wait(before).unwrap_err().to_string();
    assert!(error.contains("700"), "the first reason is the one that is told: {error}");
    drop((region, target, staging, lent, cuda));
    assert_eq!(Arc::strong_count(&owner), 2, "what an owner does when it is dropped may call the driver");
    assert_eq!(Books::now().host_waits(), waits, "the driver was called after the loss");
}

#[test]
fn memory_that_runs_out_is_an_error_and_the_device_goes_on() {
    with_standin("out of memory", &[("STANDIN_STRICT", "1")]);
}

fn out_of_memory() {
    let cuda = device();
    let budget = Budget::new(Tier::Device, 1 << 20);
    for (setting, staged) in [("fail_alloc", false), ("fail_pinned", true)] {
        standin::set(setting, 1);
        let room = budget.reserve(Lifetime::Pass, 4097).unwrap();
        let error =
            if staged { cuda.stage(room).map(drop) } else { cuda.allocate(room).map(drop) }.unwrap_err();
        assert!(matches!(error, DeviceError::OutOfMemory { bytes: 4097, .. }), "{error}");
        assert_eq!(budget.used(), 0, "what was reserved is given back");
    }
    let region = put(&cuda, &f32s(&[3.0; 100]));
    assert_eq!(values(&get(&cuda, &region)), [3.0; 100]);
}

#[test]
fn a_launch_that_is_refused_is_an_error_and_the_device_goes_on() {
    with_standin("refused", &[("STANDIN_STRICT", "1")]);
}

fn refused() {
    let cuda = device();
    let mut region = put(&cuda, &f32s(&[0.0; 100]));
    standin::set("fail_launch", 1);
    let error = cuda.call(ops::Unary::silu(view_mut(&mut region, F32, &[100])), None).unwrap_err();
    assert!(matches!(error, DeviceError::Failed { what: "cuLaunchKernel", .. }), "{error}");
    assert!(error.to_string().contains("701"), "{error}");
    cuda.call(ops::Unary::silu(view_mut(&mut region, F32, &[100])), None).unwrap();
    assert_eq!(values(&get(&cuda, &region)), [0.0; 100]);
    standin::set("fail_copy", 1);
    let staging = stage(&cuda, &[1; 400]);
    let mut target = part(region);
    let error = cuda.upload(&staging, 0..400, &mut target, 0).unwrap_err();
    assert!(matches!(error, DeviceError::Failed { .. }), "{error}");
    let ticket = cuda.upload(&staging, 0..400, &mut target, 0).unwrap();
    cuda.wait(ticket).unwrap();
}

/// All of the suite, and then a process that ends with nothing left and nothing done wrong.
#[test]
fn nothing_is_left_and_nothing_was_done_wrong() {
    with_standin("clean", &[("STANDIN_STRICT", "1")]);
    with_standin("clean", &[("STANDIN_STRICT", "1"), ("STANDIN_EARLY_COPIES", "1")]);
}

fn clean() {
    let cuda = device();
    vram_device::conformance::run(&cuda).unwrap();
    // Dropped while in use.
    let mut region = allocate(&cuda, 4096);
    busy(&cuda, &mut region);
    let staging = stage(&cuda, &[1; 4096]);
    let (target, _) = upload(&cuda, &staging, allocate(&cuda, 4096));
    drop((staging, region, target));
    println!("{cuda:?}");
}

#[test]
fn the_card_holds_what_was_reserved_and_what_is_stated() {
    with_standin("books", &[("STANDIN_STRICT", "1")]);
}

fn books() {
    let cuda = device();
    let limit = 48 << 20;
    let budget = Budget::new(Tier::Device, limit);
    let before = Books::now().live();
    // Memory that kernels still use is given back and taken again at once.
    for _ in 0..6 {
        let mut held = Vec::new();
        for megabytes in [24, 16, 8] {
            let room = budget.reserve(Lifetime::Weights, megabytes << 20).unwrap();
            let mut region = cuda.allocate(room).unwrap().into_region();
            busy(&cuda, &mut region);
            held.push(region);
        }
        let ticket = cuda.ticket(Queue::Compute).unwrap();
        drop(held);
        assert_eq!(budget.used(), 0);
        cuda.is_done(ticket).unwrap();
    }
    let (peak, reserve) = (Books::now().peak(), cuda.reserve());
    println!("{peak} bytes at most under a budget of {limit}, with {reserve:?}");
    assert!(peak <= limit + before, "{peak} bytes at most, {before} of them before");
    assert!(before <= reserve.workspace + reserve.libraries, "{before} bytes before are not in {reserve:?}");
    assert!(reserve.workspace >= 40 << 20 && reserve.libraries > 0 && reserve.before > 0, "{reserve:?}");
}

#[test]
fn staging_does_not_grow_while_work_is_queued() {
    with_standin("staging", &[("STANDIN_STRICT", "1")]);
}

fn staging() {
    let cuda = device();
    let mut target = part(allocate(&cuda, 1 << 20));
    let mut work = allocate(&cuda, 1 << 20);
    let mut staging = stage(&cuda, &vec![7; 1 << 20]);
    for _ in 0..64 {
        busy(&cuda, &mut work);
        let ticket = cuda.upload(&staging, 0..1 << 20, &mut target, 0).unwrap();
        cuda.wait(ticket).unwrap();
        staging.host_mut().fill(9);
    }
    // Exactly what was asked for.
    assert_eq!(Books::now().peak_pinned(), 1 << 20);
    // Staging that is dropped under way is not held twice either.
    for _ in 0..8 {
        let ticket = cuda.upload(&staging, 0..1 << 20, &mut target, 0).unwrap();
        drop(staging);
        staging = stage(&cuda, &vec![8; 1 << 20]);
        cuda.wait(ticket).unwrap();
    }
    assert_eq!(Books::now().peak_pinned(), 1 << 20);
}

/// On a driver that is never early, so that what is given back too soon shows, whether copies are late or early.
#[test]
fn memory_of_the_callers_own_is_given_back_behind_all_that_uses_it() {
    for early in ["0", "1"] {
        let late = ("STANDIN_QUERIES", "1000000000");
        with_standin("lent", &[("STANDIN_STRICT", "1"), ("STANDIN_EARLY_COPIES", early), late]);
    }
}

#[test]
fn memory_of_another_context_is_refused() {
    let Some(text) = with_standin("not lent", &[("STANDIN_STRICT", "1"), ("STANDIN_DEVICES", "2")]) else {
        return;
    };
    assert!(text.contains("memory of another context was refused"), "{text}");
}
