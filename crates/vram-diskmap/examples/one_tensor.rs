//! One tensor out of a checkpoint: through a `DiskMap`, and by reading the whole file first.
//!
//! `cargo run --release -p vram-diskmap --example one_tensor [CHECKPOINT [TENSOR]]`; without a checkpoint one of 512 MiB is
//! written to a temporary folder. The checkpoint must be a single file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vram_diskmap::{DiskMap, SafetensorsWriter};
use vram_types::{ByteSize, DType, SourceError, TensorMeta};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = tempfile::tempdir()?;
    let path = match args.next() {
        Some(path) => PathBuf::from(path),
        None => generated(folder.path())?,
    };
    let name = match args.next() {
        Some(name) => name,
        None => middle(&path)?,
    };
    println!("{} of {}", name, ByteSize(std::fs::metadata(&path)?.len()));

    let (ours, quick) = timed(|| Ok(DiskMap::open(&path)?.get(&name)?.into_bytes()))?;
    let (whole, slow) = timed(|| {
        let range = DiskMap::open(&path)?.tensor(&name).ok_or("no such tensor")?.range();
        let file = std::fs::read(&path)?;
        Ok(file[range.offset as usize..range.end() as usize].to_vec())
    })?;
    assert!(ours == whole, "both ways read the same bytes");
    println!("DiskMap:        {quick:>12.3?}");
    println!(
        "whole file:     {slow:>12.3?}  ({:.0} times as long)",
        slow.as_secs_f64() / quick.as_secs_f64()
    );
    Ok(())
}

/// A checkpoint of 64 tensors of 8 MiB.
fn generated(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = folder.join("model.safetensors");
    let meta = TensorMeta::new(DType::BF16, [2048, 2048])?;
    let tensors = (0..64).map(|i| (format!("layers.{i}.weight"), meta.clone()));
    let mut writer = SafetensorsWriter::create(&path, tensors, &[])?;
    for i in 0..64 {
        writer.write(&vec![i; 8 << 20])?;
    }
    writer.finish()?;
    Ok(path)
}

/// A tensor from the middle of the file.
fn middle(path: &Path) -> Result<String, SourceError> {
    let map = DiskMap::open(path)?;
    Ok(map.iter().nth(map.len() / 2).map(|(name, _)| name.to_owned()).unwrap_or_default())
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn timed(work: impl FnOnce() -> Outcome<Vec<u8>>) -> Outcome<(Vec<u8>, Duration)> {
    let start = Instant::now();
    let bytes = work()?;
    Ok((bytes, start.elapsed()))
}
