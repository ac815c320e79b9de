//! Reads all tensors of a checkpoint, from the disk and from the page cache, compared with the
//! limits of the machine.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use vram_diskmap::{DiskMap, ReadMode};
use vram_types::{FileId, FileRange, ReadOptions, ReadRequest, WeightSource};

use crate::Options;
use crate::ceilings::{read_direct, read_direct_to};
use crate::harness::{Subject, measure};
use crate::machine::{Huge, threads};
use crate::model::{Args, checkpoint, drop_cache, open_mapped};
use crate::peers::{self, Mapped};

/// The fastest of `ceilings` on this machine; which one wins changes from minute to minute.
const DIRECT: [(usize, u64); 3] = [(2, 2), (4, 1), (4, 2)];

/// Memory for all bytes of a checkpoint, already faulted in, and where in it the file's sectors
/// start.
struct Target {
    memory: Huge,
}

impl Target {
    fn new(bytes: u64) -> Result<Target> {
        let mut memory = Huge::new(bytes as usize)?;
        memory.bytes().fill(1);
        Ok(Target { memory })
    }

    /// Reads all tensors in one batch, each to the place that it has in the file.
    fn read(&mut self, map: &DiskMap) -> Result<u64> {
        let mut rest = self.memory.bytes();
        let (mut begin, mut bytes) = (0, 0);
        let mut requests = Vec::with_capacity(map.len());
        for (_, info) in map.iter() {
            let range = info.range();
            let (tensor, after) = rest.split_at_mut((range.end() - begin) as usize);
            let skipped = (range.offset - begin) as usize;
            requests.push(ReadRequest::file(FileId(0), range.offset, &mut tensor[skipped..]));
            (rest, begin, bytes) = (after, range.end(), bytes + range.bytes);
        }
        map.read_many(&mut requests, &ReadOptions::BLOCKING)?;
        Ok(bytes)
    }
}

/// Measures a file that is not in the page cache when a subject starts.
pub(crate) fn cold(options: &Options, args: &Args) -> Result<()> {
    let path = &checkpoint(options, args.given())?;
    let weights = std::fs::metadata(path)?.len();
    let aligned = weights / 4096 * 4096;
    let target = &std::cell::RefCell::new(Target::new(weights)?);
    let mut subjects: Vec<Subject<'_>> = DIRECT
        .iter()
        .map(|&(depth, mib)| {
            Subject::new(format!("direct read, {depth} of {mib} MiB"), aligned, move || {
                drop_cache(path)?;
                read_direct(path, aligned, depth, mib << 20)
            })
        })
        .collect();
    subjects.push(Subject::new("direct read, 4 of 1 MiB, to as much memory", aligned, move || {
        drop_cache(path)?;
        read_direct_to(path, &mut target.borrow_mut().memory.bytes()[..aligned as usize], 4, 1 << 20)
    }));
    let (mut skipped, mut fio) = (skipped(), Vec::new());
    match crate::fio::subjects(path) {
        Ok(ways) => {
            fio = (subjects.len()..subjects.len() + ways.len()).collect();
            subjects.extend(ways);
        }
        Err(why) => skipped.push(why),
    }
    let (as_much, first) = (DIRECT.len(), subjects.len());
    for (name, mode) in modes() {
        subjects.push(Subject::new(format!("DiskMap, one batch, {name}"), weights, move || {
            drop_cache(path)?;
            let map = DiskMap::options().read(mode).open(path)?;
            target.borrow_mut().read(&map).map(drop)
        }));
    }
    subjects.push(Subject::new("DiskMap, get by get", weights, || {
        drop_cache(path)?;
        one_by_one(&DiskMap::open(path)?)
    }));
    let first_peer = subjects.len();
    subjects.extend(peers(path, weights, true));
    let title = format!("All of {}, cold", path.display());
    let row = measure(options, "whole-cold", &title, subjects, skipped)?;
    row.publish(options)?;
    print_reading(path)?;
    for subject in first..first_peer {
        println!("{}", row.speed(subject, &[as_much]));
        println!("    {}", row.speed(subject, &[0, 1, 2]));
        if !fio.is_empty() {
            println!("    {}", row.speed(subject, &fio));
        }
    }
    println!("reach: one batch at least 0.93 of a direct read");
    Ok(())
}

/// Measures a cached file: in large pages, as reading it in order caches it, and in small pages,
/// as writing it does.
pub(crate) fn cached(options: &Options, args: &Args) -> Result<()> {
    let path = checkpoint(options, args.given())?;
    drop_cache(&path)?;
    let bytes = io::copy(&mut buffered(&path)?, &mut io::sink())?;
    ensure!(bytes == std::fs::metadata(&path)?.len(), "{} changed meanwhile", path.display());
    cached_file(options, &path, "whole-cached", "read into the page cache in order")?;
    let written = options.out.join("written.safetensors");
    let row = write(&path, &written).and_then(|()| {
        cached_file(options, &written, "whole-cached-written", "left in the page cache by writing it")
    });
    let removed = std::fs::remove_file(&written);
    row.and(removed.context("removing the copy"))
}

fn buffered(path: &Path) -> Result<io::BufReader<File>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    Ok(io::BufReader::with_capacity(4 << 20, file))
}

/// Writes a copy, and waits until the disk has it.
fn write(from: &Path, to: &Path) -> Result<()> {
    let file = File::create(to).with_context(|| to.display().to_string())?;
    let mut writer = io::BufWriter::with_capacity(4 << 20, &file);
    io::copy(&mut buffered(from)?, &mut writer)?;
    writer.flush()?;
    drop(writer);
    Ok(file.sync_all()?)
}

fn cached_file(options: &Options, path: &Path, row: &str, how: &str) -> Result<()> {
    let weights = std::fs::metadata(path)?.len();
    let target = &std::cell::RefCell::new(Target::new(weights)?);
    let mut source = Huge::new(weights as usize)?;
    source.bytes().fill(1);
    let source = &*source.bytes();
    let copied = |name: &str, part: usize| {
        Subject::new(format!("copy from memory to memory by all threads, {name}"), weights, move || {
            copy(source, &mut target.borrow_mut().memory.bytes()[..source.len()], part);
            Ok(())
        })
    };
    let mut subjects = vec![
        // A copy this long bypasses the caches, if the library has such stores.
        copied("one part each", source.len().div_ceil(threads()).max(1)),
        copied("1 MiB at a time", 1 << 20),
        Subject::new("plain reads of the file by all threads, to the same memory", weights, || {
            read_plain(path, &mut target.borrow_mut().memory.bytes()[..source.len()])
        }),
        Subject::new("DiskMap, one batch", weights, || {
            target.borrow_mut().read(&DiskMap::open(path)?).map(drop)
        }),
        Subject::new("DiskMap, one batch copied out of the map", weights, || {
            target.borrow_mut().read(&*open_mapped(path)?).map(drop)
        }),
        Subject::new("DiskMap, every byte read in the map", weights, || in_place(path)),
        Subject::new("DiskMap, get by get", weights, || one_by_one(&DiskMap::open(path)?)),
        Subject::new("DiskMap, get by get copied out of the map", weights, || {
            one_by_one(&*open_mapped(path)?)
        }),
    ];
    subjects.extend(peers(path, weights, false));
    let title = format!("All of {}, {how}", path.display());
    let row = measure(options, row, &title, subjects, skipped())?;
    row.publish(options)?;
    for subject in 3..8 {
        println!("{}", row.speed(subject, &[0]));
        println!("    {}", row.speed(subject, &[1]));
        println!("    {}", row.speed(subject, &[2]));
    }
    println!("reach: at least 0.90 of a copy");
    Ok(())
}

/// Prints how this process has read uncached bytes of a file.
pub(crate) fn print_reading(path: &Path) -> Result<()> {
    if let Some(reading) = DiskMap::open(path)?.reading(FileId(0)) {
        println!("{}: {} ({})", reading.file_system.unwrap_or("unknown"), reading.path.name(), reading.why);
    }
    Ok(())
}

fn modes() -> Vec<(&'static str, ReadMode)> {
    let mut modes = vec![("auto", ReadMode::Auto)];
    if cfg!(feature = "io-uring") {
        modes.push(("io_uring", ReadMode::Uring));
    }
    modes
}

fn one_by_one(map: &DiskMap) -> Result<()> {
    for (name, _) in map.iter() {
        black_box(map.get(name)?);
    }
    Ok(())
}

/// Reads every byte of every tensor in the map, with all threads, like a caller that needs no
/// copy.
fn in_place(path: &Path) -> Result<()> {
    let map = open_mapped(path)?;
    let tensors: Vec<FileRange> = map.iter().map(|(_, info)| info.range()).collect();
    let next = AtomicUsize::new(0);
    let worker = || -> Result<u64> {
        let mut all = 0u64;
        while let Some(&range) = tensors.get(next.fetch_add(1, Ordering::Relaxed)) {
            let view = map.map(range).context("no map")??;
            view.prefault()?;
            all = all.wrapping_add(sum(view.bytes()));
        }
        Ok(all)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| {
            black_box(w.join().unwrap_or_else(|_| anyhow::bail!("a reader panicked"))?);
            Ok(())
        })
    })
}

/// The sum of all bytes, as eight-byte numbers.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let all = words.iter().fold(0u64, |all, &word| all.wrapping_add(u64::from_le_bytes(word)));
    rest.iter().fold(all, |all, &byte| all.wrapping_add(u64::from(byte)))
}

/// Readers that map the file, made to touch every byte.
fn peers<'a>(path: &'a Path, weights: u64, cold: bool) -> Vec<Subject<'a>> {
    let prepare = move || if cold { drop_cache(path) } else { Ok(()) };
    let mut subjects = vec![Subject::new("safetensors + memmap2, each tensor copied", weights, move || {
        prepare()?;
        let map = Mapped::open(&[path])?;
        for file in map.parse()? {
            for (_, tensor) in file.iter() {
                black_box(tensor.data().to_vec());
            }
        }
        Ok(())
    })];
    if peers::candle::SKIPPED.is_none() {
        subjects.push(Subject::new("candle, each tensor loaded", weights, move || {
            prepare()?;
            let map = DiskMap::open(path)?;
            let names: Vec<&str> = map.names().collect();
            ensure!(peers::candle::load(&[path], &names)? <= weights, "more than there is");
            Ok(())
        }));
    }
    subjects
}

fn skipped() -> Vec<String> {
    peers::candle::SKIPPED.iter().map(|why| (*why).to_owned()).collect()
}

/// Positioned reads of 1 MiB, without any code of ours.
fn read_plain(path: &Path, target: &mut [u8]) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    let file = std::fs::File::open(path)?;
    let chunks = std::sync::Mutex::new(target.chunks_mut(CHUNK).enumerate());
    let next = || chunks.lock().unwrap_or_else(|e| e.into_inner()).next();
    let worker = || -> Result<()> {
        while let Some((i, chunk)) = next() {
            let n = rustix::io::pread(&file, &mut *chunk, (i * CHUNK) as u64)?;
            ensure!(n == chunk.len(), "a short read");
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads()).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| anyhow::bail!("a reader panicked")))
    })
}

/// Hands each thread the next part of this many bytes.
fn copy(source: &[u8], target: &mut [u8], part: usize) {
    let parts = std::sync::Mutex::new(source.chunks(part).zip(target.chunks_mut(part)));
    let next = || parts.lock().unwrap_or_else(|e| e.into_inner()).next();
    let worker = || {
        while let Some((from, to)) = next() {
            to.copy_from_slice(from);
        }
    };
    thread::scope(|scope| (0..threads()).for_each(|_| drop(scope.spawn(worker))));
}
