//! Opening a checkpoint, reading one tensor of it, and building a model without its weights.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;
use vram_alloc::{InitPolicy, skip_init, with_init};
use vram_diskmap::DiskMap;
use vram_models::controlnet::{Config, ControlNet};

use crate::Options;
use crate::harness::{Subject, measure};
use crate::model::{Args, checkpoint};

const TENSOR: &str = "img_in.weight";
/// So many in one sample, since one takes a fraction of a millisecond.
const TIMES: u32 = 50;

/// Opens the file and reads one tensor: ours, the bare reads of the same bytes, and the format's own crate.
pub(crate) fn one_tensor(options: &Options, args: &Args) -> Result<()> {
    let path = checkpoint(options, args.given())?;
    let map = DiskMap::open(&path)?;
    let tensors = map.len();
    let info = map.tensor(TENSOR).context("the checkpoint has no img_in.weight")?;
    let (range, bytes) = (info.range(), info.meta().bytes());
    let expected = map.get(TENSOR)?.into_bytes();
    let asked = map.bytes_read();
    let header = asked - bytes;
    println!("{tensors} tensors; bytes asked for: header {header} + tensor {bytes} = {asked}");
    ensure!(peer(&path)? == expected, "the crate reads other bytes");
    let subjects = vec![
        Subject::new("bare reads of the same bytes", 0, || {
            repeat(|| bare(&path, header, (range.offset, bytes)))
        }),
        Subject::new("DiskMap", 0, || repeat(|| Ok(DiskMap::open(&path)?.get(TENSOR)?.into_bytes()))),
        Subject::new("safetensors + memmap2", 0, || repeat(|| peer(&path))),
    ];
    let title = format!("Open {} and read {TENSOR}, file cached, {TIMES} times per sample", path.display());
    let row = measure(options, "one-tensor", &title, subjects, vec![])?;
    row.publish(options)?;
    println!("{}", row.excess(1, 0, f64::from(TIMES) * tensors as f64, "tensor in the file"));
    println!("{}", row.against_the_larger(1, &[(&[2], 1.0)]));
    Ok(())
}

fn repeat(mut once: impl FnMut() -> Result<Vec<u8>>) -> Result<()> {
    for _ in 0..TIMES {
        black_box(once()?);
    }
    Ok(())
}

/// What any reader must do: open, read the header's length, the header, the tensor.
fn bare(path: &Path, header: u64, (offset, bytes): (u64, u64)) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    let read = |at: u64, len: u64| -> Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(len as usize);
        let n = rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut buffer), at)?;
        ensure!(n as u64 == len, "a short read at {at}");
        Ok(buffer)
    };
    black_box(read(0, 8)?);
    black_box(read(8, header - 8)?);
    read(offset, bytes)
}

fn peer(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    // SAFETY: the checkpoint is this program's own and nobody writes it while a row is measured.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(SafeTensors::deserialize(&map)?.tensor(TENSOR)?.data().to_vec())
}

/// The 60-block model built inside `skip_init`, and built with its weights initialised.
pub(crate) fn skip(options: &Options, args: &Args) -> Result<()> {
    let config = Config::read(&DiskMap::open(checkpoint(options, args.given())?)?)?;
    let subjects = vec![
        Subject::new("inside skip_init", 0, || {
            black_box(skip_init(|| ControlNet::new(&config))?);
            Ok(())
        }),
        Subject::new("allocated and initialised", 0, || {
            black_box(with_init(InitPolicy::Allocate { seed: 0 }, || ControlNet::new(&config))?);
            Ok(())
        }),
    ];
    let title = format!("Building the ControlNet: {} blocks, width {}", config.blocks, config.width);
    measure(options, "skip-init", &title, subjects, vec![])?.publish(options)
}
