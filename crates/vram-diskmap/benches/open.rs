//! Opening, and opening with one tensor, beside the `safetensors` crate and beside bare reads; the files are cached.
//!
//! `cargo bench -p vram-diskmap --bench open`. After criterion's own lines come the ratios that the crate promises:
//! opening at most 0.25 times the crate's time for 20,000 tensors; opening and one tensor of 362 at most the bare reads
//! and 0.6 microseconds per tensor in the file, and at most half the crate's time.
#![allow(missing_docs)] // criterion's macros

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use safetensors::SafeTensors;
use vram_diskmap::DiskMap;

const FIRST: &str = "img_in.weight";

/// A checkpoint whose header is real and whose data is a hole in the file, as long as it says.
fn checkpoint(folder: &Path, tensors: usize, rows: usize) -> PathBuf {
    let mut json = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut begin = 0;
    for i in 0..tensors {
        let (name, rows, columns) = match i {
            0 => (FIRST.to_owned(), 3072, 64),
            _ => (format!("controlnet_blocks.{}.transformer.attn.{i}.to_add_out.weight", i / 6), rows, 3072),
        };
        let end = begin + rows * columns * 2;
        json.push_str(&format!(
            ",\"{name}\":{{\"dtype\":\"BF16\",\"shape\":[{rows},{columns}],\"data_offsets\":[{begin},{end}]}}"
        ));
        begin = end;
    }
    json.push('}');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    let path = folder.join(format!("{tensors}.safetensors"));
    std::fs::write(&path, &header).expect("the header is written");
    let file = File::options().write(true).open(&path).expect("the file is there");
    file.set_len((header.len() + begin) as u64).expect("a sparse file");
    path
}

/// The least that any reader must do: the header's bytes and the tensor's.
fn bare(path: &Path, range: &vram_types::FileRange) -> Vec<u8> {
    let mut file = File::open(path).expect("opens");
    let mut length = [0; 8];
    file.read_exact(&mut length).expect("the length");
    let mut header = vec![0; u64::from_le_bytes(length) as usize];
    file.read_exact(&mut header).expect("the header");
    black_box(&header);
    let mut tensor = vec![0; range.bytes as usize];
    file.read_exact_at(&mut tensor, range.offset).expect("the tensor");
    tensor
}

fn mapped(path: &Path) -> memmap2::Mmap {
    let file = File::open(path).expect("opens");
    // SAFETY: nothing writes to the benchmark's file.
    unsafe { memmap2::Mmap::map(&file) }.expect("maps")
}

fn crate_opens(path: &Path) -> usize {
    SafeTensors::deserialize(&mapped(path)).expect("valid").len()
}

fn crate_reads(path: &Path) -> Vec<u8> {
    let map = mapped(path);
    let tensors = SafeTensors::deserialize(&map).expect("valid");
    tensors.tensor(FIRST).expect("there").data().to_vec()
}

fn ours_reads(path: &Path) -> Vec<u8> {
    DiskMap::open(path).expect("valid").get(FIRST).expect("there").into_bytes()
}

/// Medians of alternating runs, so that a machine's moods meet all alike.
fn medians<const N: usize>(rounds: usize, mut work: [&mut dyn FnMut(); N]) -> [Duration; N] {
    let mut times: [Vec<Duration>; N] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for _ in 0..rounds {
        for (work, times) in work.iter_mut().zip(&mut times) {
            let start = Instant::now();
            work();
            times.push(start.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort();
        times.get(rounds / 2).copied().unwrap_or_default()
    })
}

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let small = checkpoint(folder.path(), 362, 1024);
    let large = checkpoint(folder.path(), 20_000, 1);
    let range = DiskMap::open(&small).expect("valid").tensor(FIRST).expect("there").range();
    assert_eq!(bare(&small, &range), ours_reads(&small)); // also brings the pages into the cache

    let mut criterion = Criterion::default().configure_from_args().without_plots();
    for (path, tensors) in [(&small, 362), (&large, 20_000)] {
        let mut group = criterion.benchmark_group(format!("open {tensors} tensors"));
        group.sample_size(20);
        group.bench_function("DiskMap", |b| {
            b.iter(|| DiskMap::open(path).expect("valid").len());
        });
        group.bench_function("safetensors + memmap2", |b| b.iter(|| crate_opens(path)));
        group.finish();
    }
    let mut group = criterion.benchmark_group("open 362 tensors and read one");
    group.sample_size(50);
    group.bench_function("bare reads", |b| b.iter(|| bare(&small, &range)));
    group.bench_function("DiskMap", |b| b.iter(|| ours_reads(&small)));
    group.bench_function("safetensors + memmap2", |b| b.iter(|| crate_reads(&small)));
    group.finish();

    let [ours, theirs] = medians(
        15,
        [&mut || drop(black_box(DiskMap::open(&large))), &mut || {
            black_box(crate_opens(&large));
        }],
    );
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("20,000 tensors: DiskMap {ours:?}, safetensors {theirs:?}: {ratio:.3} (at most 0.25)");
    let [least, ours, theirs] = medians(
        301,
        [
            &mut || drop(black_box(bare(&small, &range))),
            &mut || drop(black_box(ours_reads(&small))),
            &mut || drop(black_box(crate_reads(&small))),
        ],
    );
    let each = (ours.as_secs_f64() - least.as_secs_f64()) * 1e6 / 362.0;
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!(
        "362 tensors, one read: bare {least:?}, DiskMap {ours:?}, safetensors {theirs:?}: {each:.3} us per tensor over bare (at most 0.6), {ratio:.3} of the crate (at most 0.5)"
    );
}
