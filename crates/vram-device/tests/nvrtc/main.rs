//! Every CUDA program through NVIDIA's compiler, for every architecture that is promised, and what its kernels take of a card.
//!
//! `cargo xtask nvrtc` fetches the compiler and runs this; without a libnvrtc the test says so. The figures are compared with those in
//! `docs/measured/nvrtc.md` if the compiler is of the same version.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cubin;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use cubin::Uses;
use vram_device::cuda::{CudaSource, compiler, sources};

/// Compute capabilities that are promised: Turing, Ampere (both), Ada, Hopper, Blackwell.
const ARCHITECTURES: [u32; 6] = [75, 80, 86, 89, 90, 120];

/// Threads of every block.
const THREADS: u32 = 256;

/// Of a multiprocessor of every architecture.
const REGISTERS: u32 = 65536;

/// What a block may have without being asked for.
const SHARED: u64 = 48 << 10;

/// Bytes that a thread may put off to memory.
const SPILLED: u32 = 256;

/// By program and kernel, for each architecture in turn.
type Figures = BTreeMap<(String, String), Vec<Uses>>;

#[test]
fn every_program_compiles_for_every_architecture() {
    let (version, known) = match compiler() {
        Ok(found) => found,
        Err(reason) => {
            assert!(std::env::var_os("VRAM_NVRTC_REQUIRED").is_none(), "{reason}");
            return println!("skipped: {reason}");
        }
    };
    // A compiler that knows fewer is the stand-in's, or an old one; what is promised is promised of the one that is fetched.
    let architectures: Vec<u32> = ARCHITECTURES.into_iter().filter(|a| known.contains(a)).collect();
    if std::env::var_os("VRAM_NVRTC_REQUIRED").is_some() {
        assert_eq!(architectures, ARCHITECTURES, "NVRTC {version:?} knows {known:?}");
    }
    let figures = all(&architectures);
    for ((program, kernel), uses) in &figures {
        for (uses, architecture) in uses.iter().zip(&architectures) {
            let what = format!("{kernel} of {program} for sm_{architecture}: {uses:?}");
            assert!(uses.registers > 0 && uses.registers * THREADS <= REGISTERS, "{what}");
            assert!(uses.shared <= SHARED && uses.spilled <= SPILLED, "{what}");
        }
    }
    println!("NVRTC {}.{}: {} kernels for sm_{architectures:?}", version.0, version.1, figures.len());
    record(&text(version, &architectures, &figures), version);
}

/// Compiles everything, on as many threads as there are.
fn all(architectures: &[u32]) -> Figures {
    let work: Vec<(CudaSource, usize)> = sources()
        .into_iter()
        .flat_map(|source| (0..architectures.len()).map(move |i| (source.clone(), i)))
        .collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<(usize, Vec<(String, Uses)>)> = std::thread::scope(|scope| {
        let worker = || {
            let mut done = Vec::new();
            while let Some((source, i)) = work.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                let image = source.compile(architectures[*i]);
                let image =
                    image.unwrap_or_else(|e| panic!("{} for sm_{}: {e}", source.name, architectures[*i]));
                let place = work.iter().position(|(s, j)| s.name == source.name && j == i).unwrap();
                done.push((place, cubin::uses(&image, source.kernels)));
            }
            done
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
    });
    let mut results: BTreeMap<usize, Vec<(String, Uses)>> = results.into_iter().collect();
    let mut figures = Figures::new();
    while let Some((place, uses)) = results.pop_first() {
        for (kernel, uses) in uses {
            figures.entry((work[place].0.name.clone(), kernel)).or_default().push(uses);
        }
    }
    figures
}

fn text((major, minor): (u32, u32), architectures: &[u32], figures: &Figures) -> String {
    let mut text = format!(
        "# What CUDA kernels take of a card\n\nWritten by `cargo xtask nvrtc --record`, which compiles every program for every \
         architecture with NVRTC {major}.{minor}. No card\nis needed. Of each kernel: registers of a thread / bytes of shared memory \
         of a block / bytes of a thread that are put off to memory.\nBlocks have {THREADS} threads.\n\n| program | kernel |"
    );
    architectures.iter().for_each(|a| write!(text, " sm_{a} |").unwrap());
    text += "\n|---|---|";
    architectures.iter().for_each(|_| text += "---|");
    for ((program, kernel), uses) in figures {
        write!(text, "\n| {program} | {kernel} |").unwrap();
        for Uses { registers, shared, spilled } in uses {
            write!(text, " {registers} / {shared} / {spilled} |").unwrap();
        }
    }
    text + "\n"
}

/// Writes the record, or compares with it.
fn record(text: &str, (major, minor): (u32, u32)) {
    let Some(path) = std::env::var_os("VRAM_NVRTC_RECORD").map(PathBuf::from) else { return };
    if std::env::var_os("VRAM_NVRTC_WRITE").is_some() {
        std::fs::write(&path, text).unwrap();
        return println!("written to {}", path.display());
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    if !kept.contains(&format!("NVRTC {major}.{minor}.")) {
        return println!("skipped: {} is of another compiler", path.display());
    }
    let differs = kept.lines().zip(text.lines()).find(|(kept, now)| kept != now);
    assert!(kept == text, "{} differs, run `cargo xtask nvrtc --record`: {differs:?}", path.display());
}
