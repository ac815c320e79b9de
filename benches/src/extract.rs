//! `vram extract` to fp8: its memory use, and its time compared with the disk (reads and writes)
//! and the cast.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vram_diskmap::DiskMap;
use vram_types::{DType, cast};

use crate::Options;
use crate::ceilings::read_direct;
use crate::harness::{Subject, measure};
use crate::machine::threads;
use crate::model::{Args, checkpoint, drop_cache};

const LIMIT_KIB: u64 = 64 << 10;
/// Bytes to cast or write at a time, few enough to stay in the processor's cache.
const PIECE: usize = 256 << 10;

/// Casts the cold checkpoint to `F8_E4M3`.
pub(crate) fn run(options: &Options, args: &Args) -> Result<()> {
    let path = &checkpoint(options, args.given())?;
    let vram = &std::env::current_exe().context("own path")?.with_file_name("vram");
    ensure!(vram.exists(), "{} is not built: cargo build --release -p vram-cli", vram.display());
    let output = &options.out.join("extracted-f8.safetensors");
    let weights = std::fs::metadata(path)?.len();
    let aligned = weights / 4096 * 4096;
    let largest = std::cell::Cell::new(0);
    let largest = &largest;
    let direct = |depth: usize, mib: u64| {
        Subject::timed(format!("direct read, {depth} of {mib} MiB"), aligned, move || {
            settle(path, output)?;
            let start = Instant::now();
            read_direct(path, aligned, depth, mib << 20)?;
            Ok(start.elapsed())
        })
    };
    let subjects = vec![
        direct(2, 2),
        direct(4, 1),
        Subject::new("the cast alone, all threads", weights, || cast_all(weights)),
        Subject::timed("plain writes of as many bytes", weights / 2, || {
            settle(path, output)?;
            let start = Instant::now();
            write_all(output, weights / 2)?;
            Ok(start.elapsed())
        }),
        Subject::timed("reads, casts and writes at once", weights, || {
            settle(path, output)?;
            let start = Instant::now();
            thread::scope(|scope| {
                let writes = scope.spawn(|| write_all(output, weights / 2));
                let casts = scope.spawn(|| cast_all(weights));
                read_direct(path, aligned, 4, 1 << 20)?;
                [writes, casts]
                    .into_iter()
                    .try_for_each(|work| work.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
            })?;
            Ok(start.elapsed())
        }),
        Subject::timed("vram extract --dtype f8_e4m3", weights, || {
            settle(path, output)?;
            let (seconds, kib) = extract(vram, path, output)?;
            largest.set(kib.max(largest.get()));
            Ok(seconds)
        }),
    ];
    let title = format!("Extract {} to fp8, cold", path.display());
    let row = measure(options, "extract-fp8", &title, subjects, vec![])?;
    row.publish(options)?;
    settle(path, output)?;
    extract(vram, path, output)?;
    let map = DiskMap::open(output)?;
    ensure!(map.iter().all(|(_, info)| info.dtype() == DType::F8_E4M3), "some tensors are not fp8");
    drop(map);
    let (bounds, at_once, extracted) = ([(&[0, 1][..], 1.0), (&[2], 1.0), (&[3], 1.0)], 4, 5);
    println!("{}", row.against_the_larger(extracted, &bounds));
    println!("    over all three at once, none waiting for another: {}", row.against(extracted, at_once));
    println!(
        "largest resident set of {} runs: {} KiB; reach: at most {LIMIT_KIB} KiB",
        options.rounds() + 1,
        largest.get()
    );
    ensure!(largest.get() <= LIMIT_KIB, "the resident set is over 64 MiB");
    std::fs::remove_file(output).with_context(|| output.display().to_string())
}

/// Drops the input from the page cache, and waits until earlier output is written.
fn settle(path: &Path, output: &Path) -> Result<()> {
    if output.exists() {
        std::fs::remove_file(output).with_context(|| output.display().to_string())?;
    }
    rustix::fs::sync();
    drop_cache(path)
}

/// Runs the command. Returns its time, and its largest resident set in KiB.
fn extract(vram: &Path, path: &Path, output: &Path) -> Result<(Duration, u64)> {
    let start = Instant::now();
    let run = Command::new("/usr/bin/time")
        .args(["-f", "%M"])
        .arg(vram)
        .arg("extract")
        .arg(path)
        .args(["--dtype", "f8_e4m3", "-o"])
        .arg(output)
        .output()
        .context("/usr/bin/time (install the package `time`)")?;
    let took = start.elapsed();
    let text = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "vram extract failed: {text}");
    let kib = text.lines().last().context("no output of time")?.trim().parse()?;
    Ok((took, kib))
}

/// Casts this many bytes of bf16, between cached buffers.
fn cast_all(bytes: u64) -> Result<()> {
    let pieces = (bytes as usize).div_ceil(PIECE);
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        let from: Vec<u8> = (0..PIECE).map(|i| (i * 31 % 251) as u8).collect();
        let mut to = vec![0; PIECE / 2];
        while next.fetch_add(1, Ordering::Relaxed) < pieces {
            cast::cast_serial(std::hint::black_box(&from), DType::BF16, &mut to, DType::F8_E4M3)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })
}

fn write_all(path: &Path, bytes: u64) -> Result<()> {
    let piece: Vec<u8> = (0..4 * PIECE).map(|i| (i * 31 % 251) as u8).collect();
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let mut left = bytes as usize;
    while left > 0 {
        let n = left.min(piece.len());
        file.write_all(&piece[..n])?;
        left -= n;
    }
    Ok(())
}
