//! A driver that has no more memory.

use std::process::Command;

use vram_device::wgpu::WgpuOptions;
use vram_device::{Device, DeviceError, Lifetime};

use crate::util::{Random, allocate, budget, busy, get, open, put};

/// Set in the process whose address space is limited, so that other tests keep theirs.
const CHILD: &str = "VRAM_TEST_LIMITED";
/// What it may take beside what it has when it begins, in bytes.
const MORE: u64 = 1 << 30;
const PIECE: u64 = 200 << 20;

#[test]
fn a_driver_without_memory_is_an_error_that_says_so_and_the_device_goes_on() {
    if std::env::var_os(CHILD).is_some() {
        return limited();
    }
    let Some(_) = open(WgpuOptions::default()) else { return };
    if Command::new("prlimit").arg("--version").output().is_err() {
        return println!("skipped: there is no prlimit to limit a process with");
    }
    let name = std::thread::current().name().map(str::to_owned).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", "--nocapture", &name]).env(CHILD, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {text}{errors}", output.status);
    // On cards of their own the host's address space limits nothing.
    let told = text.lines().find(|l| l.contains("pieces of") || l.contains("skipped:"));
    println!("{}", told.unwrap_or_else(|| panic!("the child ran nothing: {text}{errors}")));
}

fn limited() {
    let Some(wgpu) = open(WgpuOptions::default()) else { return };
    // All that is compiled or taken once is so before memory is short.
    let bytes = Random::new(8).bytes(1 << 20);
    let kept = put(&wgpu, &bytes);
    let mut work = allocate(&wgpu, 4096);
    busy(&wgpu, &mut work);
    assert!(get(&wgpu, &kept) == bytes);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let size = status.lines().find_map(|l| l.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = size.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    let limit = format!("--as={}", kib * 1024 + MORE);
    let pid = std::process::id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());

    let budget = budget();
    let mut held = Vec::new();
    let error = loop {
        match wgpu.allocate(budget.reserve(Lifetime::Weights, PIECE).unwrap()) {
            // Not all adapters keep their memory in this process.
            Ok(_) if held.len() as u64 > 2 * MORE / PIECE => {
                return println!("skipped: this adapter's memory is not the process's");
            }
            Ok(buffer) => held.push(buffer),
            Err(error) => break error,
        }
    };
    println!("{} pieces of {PIECE} bytes, then: {error}", held.len());
    assert!(matches!(error, DeviceError::OutOfMemory { bytes: PIECE, .. }) && error.is_oom(), "{error:?}");
    assert!(!held.is_empty() && budget.used() == held.len() as u64 * PIECE, "{budget:?}");
    // What was refused is given back, what was there is there, and with less held there is room again.
    held.clear();
    assert_eq!(budget.used(), 0);
    busy(&wgpu, &mut work);
    assert!(get(&wgpu, &kept) == bytes);
    wgpu.allocate(budget.reserve(Lifetime::Weights, PIECE).unwrap()).unwrap();
}
