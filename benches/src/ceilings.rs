//! The limits of this machine, measured without any code of ours.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::harness::{Subject, measure};
use crate::machine::{Huge, threads};

/// Alignment of direct reads; the largest that common disks require.
const SECTOR: u64 = 4096;
/// Reads in flight, and MiB per read, to try. The fastest combination differs from disk to disk.
pub(crate) const DIRECT_READS: [(usize, u64); 8] =
    [(1, 1), (1, 4), (1, 16), (2, 2), (4, 1), (4, 2), (4, 4), (16, 1)];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// Read this file instead of a temporary one
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

/// Measures the disk, then memory.
pub(crate) fn run(options: &Options, args: &Args) -> Result<()> {
    disk(options, args.file.as_deref())?;
    memory(options)
}

fn disk(options: &Options, file: Option<&Path>) -> Result<()> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => scratch(options)?,
    };
    let title = format!("Direct reads of {}, by reads in flight and their size", path.display());
    let bytes = fs::metadata(&path).with_context(|| path.display().to_string())?.len() / SECTOR * SECTOR;
    ensure!(bytes > 0, "{} is too small to measure", path.display());
    let (subjects, skipped) = match open_direct(&path) {
        Ok(_) => {
            let subject = |&(depth, mib): &(usize, u64)| {
                let path = path.clone();
                Subject::new(format!("{depth} of {mib} MiB"), bytes, move || {
                    read_direct(&path, bytes, depth, mib << 20)
                })
            };
            (DIRECT_READS.iter().map(subject).collect(), vec![])
        }
        Err(error) => (vec![], vec![format!("{error:#}")]),
    };
    if subjects.is_empty() {
        println!("\n{title}\nskipped: {}", skipped.join("; "));
        return Ok(());
    }
    measure(options, "ceiling-disk", &title, subjects, skipped)?.publish(options)
}

/// A file of random bytes, so that nothing on the way can compress it or treat it as a hole.
fn scratch(options: &Options) -> Result<PathBuf> {
    let bytes: u64 = if options.quick { 256 << 20 } else { 2 << 30 };
    fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let path = options.out.join("ceiling.bin");
    if fs::metadata(&path).is_ok_and(|m| m.len() == bytes) {
        return Ok(path);
    }
    let write = || -> std::io::Result<()> {
        let mut out = BufWriter::with_capacity(4 << 20, File::create(&path)?);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..bytes / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            out.write_all(&state.to_le_bytes())?;
        }
        out.into_inner()?.sync_all()
    };
    write().with_context(|| path.display().to_string())?;
    Ok(path)
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("{} cannot be read directly", path.display()))?;
    Ok(File::from(fd))
}

#[cfg(not(target_os = "linux"))]
fn open_direct(path: &Path) -> Result<File> {
    anyhow::bail!("{}: direct reads are measured on Linux only", path.display())
}

/// Reads the first `bytes` of the file with `depth` threads, each with one read of `chunk` bytes
/// in flight.
pub(crate) fn read_direct(path: &Path, bytes: u64, depth: usize, chunk: u64) -> Result<()> {
    let file = open_direct(path)?;
    let next = AtomicU64::new(0);
    let worker = || -> Result<()> {
        let mut memory = Huge::new(chunk as usize)?;
        let buffer = memory.bytes();
        loop {
            let at = next.fetch_add(chunk, Ordering::Relaxed);
            if at >= bytes {
                return Ok(());
            }
            read_whole(&file, &mut buffer[..chunk.min(bytes - at) as usize], at)?;
        }
    };
    on_threads(depth, &worker)
}

/// Reads as many bytes as `memory` has, each to its own place. The first write to memory after a
/// while costs more than writing the same memory again and again, because that stays in the
/// caches.
pub(crate) fn read_direct_to(path: &Path, memory: &mut [u8], depth: usize, chunk: u64) -> Result<()> {
    let file = open_direct(path)?;
    let pieces = Mutex::new(memory.chunks_mut(chunk as usize).enumerate());
    let worker = || -> Result<()> {
        loop {
            let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((i, piece)) = next else { return Ok(()) };
            read_whole(&file, piece, i as u64 * chunk)?;
        }
    };
    on_threads(depth, &worker)
}

/// Reads the first `bytes` of the file, cycling through `memory` as the engine fills its ring.
pub(crate) fn read_direct_around(
    path: &Path,
    bytes: u64,
    memory: &mut [u8],
    depth: usize,
    chunk: u64,
) -> Result<()> {
    let file = open_direct(path)?;
    let slots: Vec<_> = memory.chunks_exact_mut(chunk as usize).map(Mutex::new).collect();
    ensure!(slots.len() >= depth, "{depth} reads at once do not fit the memory");
    let next = AtomicU64::new(0);
    let worker = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let at = number * chunk;
            if at >= bytes {
                return Ok(());
            }
            let slot = &slots[(number % slots.len() as u64) as usize];
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            read_whole(&file, &mut slot[..chunk.min(bytes - at) as usize], at)?;
        }
    };
    on_threads(depth, &worker)
}

fn read_whole(file: &File, buffer: &mut [u8], at: u64) -> Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        let n = rustix::io::pread(file, &mut buffer[done..], at + done as u64)
            .with_context(|| format!("direct read at {}", at + done as u64))?;
        ensure!(n > 0, "the file ended at {}", at + done as u64);
        done += n;
    }
    Ok(())
}

fn on_threads(count: usize, worker: &(impl Fn() -> Result<()> + Sync)) -> Result<()> {
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| anyhow::bail!("a reader panicked")))
    })
}

fn memory(options: &Options) -> Result<()> {
    // Far above the size of any last-level cache.
    let words: usize = if options.quick { 32 << 20 } else { 128 << 20 };
    let bytes = words as u64 * 8;
    let source: Vec<u64> = (0..words as u64).collect();
    let mut target = vec![1u64; words];
    let expected: u64 = source.iter().fold(0, |a, b| a.wrapping_add(*b));
    let all = threads();
    let target = &std::cell::RefCell::new(&mut target);
    let mut subjects = Vec::new();
    for n in if all > 1 { vec![1, all] } else { vec![1] } {
        let source = &source;
        subjects.push(Subject::new(format!("copy, {n} threads"), bytes, move || {
            copy(source, &mut target.borrow_mut(), n);
            Ok(())
        }));
        subjects.push(Subject::new(format!("read, {n} threads"), bytes, move || {
            ensure!(sum(source, n) == expected, "memory changed while it was read");
            Ok(())
        }));
    }
    let title = format!("Memory, {} MiB at a time", bytes >> 20);
    measure(options, "ceiling-memory", &title, subjects, vec![])?.publish(options)
}

fn copy(source: &[u64], target: &mut [u64], threads: usize) {
    let part = source.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        for (from, to) in source.chunks(part).zip(target.chunks_mut(part)) {
            scope.spawn(move || to.copy_from_slice(from));
        }
    });
}

fn sum(source: &[u64], threads: usize) -> u64 {
    let part = source.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> = source.chunks(part).map(|p| scope.spawn(|| sum_part(p))).collect();
        parts.into_iter().map(|p| p.join().unwrap_or_default()).fold(0, u64::wrapping_add)
    })
}

/// Many independent sums, so that loads are the limit and not additions.
fn sum_part(part: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    let mut chunks = part.chunks_exact(sums.len());
    for chunk in &mut chunks {
        for (s, x) in sums.iter_mut().zip(chunk) {
            *s = s.wrapping_add(*x);
        }
    }
    chunks.remainder().iter().chain(&sums).fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_copies_cover_every_word() {
        let source: Vec<u64> = (0..1009).map(|i| i * i).collect();
        let mut target = vec![0; source.len()];
        for threads in [1, 2, 3, 64] {
            target.fill(0);
            copy(&source, &mut target, threads);
            assert_eq!(source, target);
            assert_eq!(sum(&source, threads), source.iter().sum::<u64>());
        }
    }

    #[test]
    fn direct_reads_reach_the_end() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("x");
        fs::write(&path, vec![7u8; (1 << 20) + SECTOR as usize]).unwrap();
        match open_direct(&path) {
            Ok(_) => read_direct(&path, (1 << 20) + SECTOR, 3, 256 << 10).unwrap(),
            Err(error) => println!("skipped: {error:#}"),
        }
    }
}
