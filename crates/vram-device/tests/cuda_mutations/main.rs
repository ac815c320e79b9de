//! Leaves out, one after the other, each wait that keeps the CUDA backend in order, and shows that the stand-in for the driver misses it
//! (or that an answer is wrong); with none left out all is well.
//!
//! Run by `cargo xtask test`. It has no harness: a guard is left out in a whole process, so that each has a process of its own.

#![allow(clippy::unwrap_used)] // a test's failure is a panic
#![allow(unreachable_pub, dead_code, unused_imports, unused_macros)] // shared with the other tests

#[path = "../gpu/mod.rs"]
mod gpu;
#[path = "../cuda/standin.rs"]
mod standin;
#[path = "../cuda/util.rs"]
mod util;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};

use util::{
    allocate, budget, busy, f32s, get, open, ordered, part, put, stage, upload, values, view, view_mut,
};
use vram_device::cuda::{Cuda, CudaOptions, Guard, leave_out};
use vram_device::{Arena, Device, KernelsExt, Lifetime, Queue, ops};
use vram_types::DType::F32;

/// The guard that a child leaves out: its place in `Guard::ALL`, or one beyond for none.
const LEFT_OUT: &str = "VRAM_CUDA_LEFT_OUT";

const N: usize = 4096;

/// Layers through a slot, as a ring has them: the copy comes after the kernels of the layer before, and the kernels after the copy.
fn ring(cuda: &Cuda) {
    let slot = cuda.allocate(budget().reserve(Lifetime::Weights, (N * 4) as u64).unwrap()).unwrap();
    let ring = Arena::ring(vec![slot]);
    let mut sum = put(cuda, &f32s(&[0.0; N]));
    let mut staging = stage(cuda, &f32s(&[0.0; N]));
    for layer in 1..=10u8 {
        staging.host_mut().copy_from_slice(&f32s(&[f32::from(layer); N]));
        let (region, copied) = upload(cuda, &staging, ring.alloc((N * 4) as u64, 256).unwrap());
        ordered(cuda, copied);
        cuda.call(ops::Binary::add(view(&region, F32, &[N]), view_mut(&mut sum, F32, &[N])), None).unwrap();
        region.retire(cuda.ticket(Queue::Compute).unwrap());
        // Before the staging is written again.
        cuda.wait(copied).unwrap();
    }
    assert!(values(&get(cuda, &sum)) == [55.0; N]);
}

/// The same with answers instead of waits: who asks often enough may write the staging again.
fn asked(cuda: &Cuda) {
    let mut staging = stage(cuda, &f32s(&[1.0; N]));
    let (region, copied) = upload(cuda, &staging, allocate(cuda, (N * 4) as u64));
    while !cuda.is_done(copied).unwrap() {
        std::thread::yield_now();
    }
    staging.host_mut().fill(0);
    cuda.order(Queue::Compute, copied).unwrap();
    assert!(values(&get(cuda, &region)) == [1.0; N]);
}

/// Memory and staging that are dropped while work uses them.
fn dropped(cuda: &Cuda) {
    for _ in 0..3 {
        let mut region = allocate(cuda, (N * 4) as u64);
        busy(cuda, &mut region);
        drop(region);
        let staging = stage(cuda, &f32s(&[1.0; N]));
        let (region, copied) = upload(cuda, &staging, allocate(cuda, (N * 4) as u64));
        drop(staging);
        cuda.order(Queue::Compute, copied).unwrap();
        assert!(values(&get(cuda, &region)) == [1.0; N]);
    }
}

type Driver = fn(&Cuda);

const DRIVERS: [(&str, Driver); 3] = [("a ring", ring), ("questions", asked), ("drops", dropped)];

/// Runs all drivers without a guard, and says what was missed.
fn child(index: usize) -> ExitCode {
    leave_out(Guard::ALL.get(index).copied());
    // What goes wrong is told below.
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = None;
    'all: for early in [0, 1] {
        for (name, run) in DRIVERS {
            let cuda = Cuda::new(CudaOptions { cache: util::cache(), ..Default::default() }).unwrap();
            standin::set("early_copies", early);
            let failure = catch_unwind(AssertUnwindSafe(|| run(&cuda))).err();
            let wrong =
                failure.map(|_| "a wrong answer".to_owned()).or_else(|| standin::misuse().first().cloned());
            missed = missed.or(wrong.map(|wrong| format!("{name}: {wrong}")));
            if missed.is_some() {
                // What is queued may use what is gone, and the device may be lost.
                std::mem::forget(cuda);
                break 'all;
            }
        }
    }
    match missed {
        Some(missed) => println!("missed by {missed}"),
        None => println!("all is well"),
    }
    ExitCode::SUCCESS
}

fn main() -> ExitCode {
    if let Ok(index) = std::env::var(LEFT_OUT) {
        return child(index.parse().unwrap());
    }
    let Some(cuda) = open(CudaOptions::default()) else { return ExitCode::SUCCESS };
    if !standin::is_here() {
        println!("skipped: a card need not be late, so that nothing has to be missed on it");
        return ExitCode::SUCCESS;
    }
    drop(cuda);
    let mut wrong = Vec::new();
    for index in (0..=Guard::ALL.len()).rev() {
        let name = Guard::ALL.get(index).map_or("none left out".to_owned(), |guard| format!("{guard:?}"));
        let mut command = Command::new(std::env::current_exe().unwrap());
        // Without the guard it may end as it likes.
        let output = command.env(LEFT_OUT, index.to_string()).env("STANDIN_STRICT", "0").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = text.lines().find(|line| line.starts_with("missed by") || *line == "all is well");
        let told =
            told.map_or_else(|| format!("missed: the process ended with {}", output.status), str::to_owned);
        println!("{name:<16} {told}");
        let is_well = told == "all is well";
        if is_well != (index == Guard::ALL.len()) {
            wrong.push(format!("{name}: {told}\n{}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    wrong.iter().for_each(|wrong| eprintln!("WRONG: {wrong}"));
    ExitCode::FAILURE
}
