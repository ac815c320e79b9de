//! Reads scattered tensors of a file that is not cached.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use vram_diskmap::{DiskMap, SafetensorsWriter};
use vram_types::{DType, TensorMeta};

use crate::Options;
use crate::harness::{Subject, measure};
use crate::model::drop_cache;
use crate::peers::{self, Mapped};

/// How many tensors the file has, and how many of them are read.
const TENSORS: usize = 4000;
const READ: usize = 1000;
/// Threads for the bare reads.
const THREADS: usize = 4;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Reads 1,000 of 4,000 tensors, of 2 KiB to 1 MiB each.
pub(crate) fn run(options: &Options) -> Result<()> {
    let path = &file(options)?;
    let map = DiskMap::open(path)?;
    let names = chosen(&map);
    let names = &names;
    let ranges: Vec<(u64, u64)> = names
        .iter()
        .map(|name| {
            let range = map.tensor(name).with_context(|| format!("no tensor {name}"))?.range();
            Ok((range.offset, range.bytes))
        })
        .collect::<Result<_>>()?;
    let bytes: u64 = ranges.iter().map(|(_, bytes)| bytes).sum();
    let ranges = &ranges;
    let mut subjects = vec![
        Subject::new(format!("bare reads of the same ranges, {THREADS} threads"), bytes, move || {
            drop_cache(path)?;
            bare(path, ranges)
        }),
        Subject::new("DiskMap, one batch", bytes, move || {
            drop_cache(path)?;
            let all = DiskMap::open(path)?.get_many(names)?;
            ensure!(black_box(all).len() == names.len(), "a tensor is missing");
            Ok(())
        }),
        Subject::new("DiskMap, get by get", bytes, move || {
            drop_cache(path)?;
            let map = DiskMap::open(path)?;
            names.iter().try_for_each(|name| {
                black_box(map.get(name)?);
                Ok(())
            })
        }),
        Subject::new("safetensors + memmap2", bytes, move || {
            drop_cache(path)?;
            let map = Mapped::open(&[path])?;
            let files = map.parse()?;
            names.iter().try_for_each(|name| {
                black_box(peers::copied(&files, name)?);
                Ok(())
            })
        }),
    ];
    if peers::candle::SKIPPED.is_none() {
        subjects.push(Subject::new("candle", bytes, move || {
            drop_cache(path)?;
            ensure!(peers::candle::load(&[path], names)? == bytes, "other bytes");
            Ok(())
        }));
    }
    let skipped = peers::candle::SKIPPED.iter().map(|why| (*why).to_owned()).collect();
    let title =
        format!("{READ} of {TENSORS} tensors of {}, in no order, cold; opened each time", path.display());
    let peers: Vec<usize> = (3..subjects.len()).collect();
    let row = measure(options, "random", &title, subjects, skipped)?;
    row.publish(options)?;
    println!("{}", row.speed(1, &[0]));
    println!("{}", row.speed(1, &peers));
    println!("{}", row.speed(2, &peers));
    println!("reach: at least 1.00 of the fastest peer");
    Ok(())
}

fn file(options: &Options) -> Result<PathBuf> {
    let path = options.out.join(format!("random-{TENSORS}.safetensors"));
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    // As many sizes between 2 and 4 KiB as between 512 KiB and 1 MiB.
    let size = |_| {
        let least = 2048 << (noise.next() % 9);
        (least + noise.next() % least / 2 * 2) as usize
    };
    let sizes: Vec<usize> = (0..TENSORS).map(size).collect();
    let tensors: Vec<(String, TensorMeta)> = sizes
        .iter()
        .enumerate()
        .map(|(i, bytes)| Ok((format!("blocks.{i}.weight"), TensorMeta::new(DType::BF16, [bytes / 2])?)))
        .collect::<Result<_>>()?;
    let mut writer = SafetensorsWriter::create(&path, tensors, &[])?;
    for bytes in sizes {
        let values: Vec<u8> =
            (0..bytes / 8 + 1).flat_map(|_| noise.next().to_le_bytes()).take(bytes).collect();
        writer.write(&values)?;
    }
    writer.finish()?;
    Ok(path)
}

/// Names in an order that is unrelated to their places in the file.
fn chosen(map: &DiskMap) -> Vec<&str> {
    let mut noise = Noise(0xD1B5_4A32_D192_ED03);
    let mut names: Vec<&str> = map.iter().map(|(name, _)| name).collect();
    for i in (1..names.len()).rev() {
        names.swap(i, (noise.next() % (i as u64 + 1)) as usize);
    }
    names.truncate(READ);
    names
}

/// Positioned reads of the ranges, in this order, through the page cache.
fn bare(path: &Path, ranges: &[(u64, u64)]) -> Result<()> {
    let file = std::fs::File::open(path)?;
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some(&(offset, bytes)) = ranges.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut memory = vec![0; bytes as usize];
            let mut done = 0;
            while done < memory.len() {
                let n = rustix::io::pread(&file, &mut memory[done..], offset + done as u64)?;
                ensure!(n > 0, "the file ended at {offset}");
                done += n;
            }
            black_box(memory);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| anyhow::bail!("a reader panicked")))
    })
}
