//! Opens a checkpoint, reads one tensor of it, and builds a model without its weights.

use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use vram_alloc::{InitPolicy, skip_init, with_init};
use vram_diskmap::DiskMap;
use vram_models::controlnet::{Config, ControlNet};
use vram_types::FileRange;

use crate::Options;
use crate::harness::{Subject, measure};
use crate::model::{Args, checkpoint, synthesised};
use crate::peers::{self, Mapped};

const TENSOR: &str = "img_in.weight";
/// Repetitions per sample, because one takes only a fraction of a millisecond.
const TIMES: u32 = 50;
const HEADERS: u32 = 5;

/// Opens a file of 20,000 tensors: with the format's own crate, ours, and candle.
pub(crate) fn header(options: &Options) -> Result<()> {
    let tensors = if options.quick { 2_000 } else { 20_000 };
    let path = &options.out.join(format!("header-{tensors}.safetensors"));
    write_header(path, tensors)?;
    ensure!(DiskMap::open(path)?.len() == tensors, "a tensor is missing");
    let repeat = |once: &dyn Fn() -> Result<usize>| {
        for _ in 0..HEADERS {
            ensure!(once()? == tensors, "a tensor is missing");
        }
        Ok(())
    };
    let mut subjects = vec![
        Subject::new("safetensors + memmap2", 0, || {
            repeat(&|| Ok(Mapped::open(&[path])?.parse()?.iter().map(|file| file.len()).sum()))
        }),
        Subject::new("DiskMap, duplicates checked", 0, || repeat(&|| Ok(DiskMap::open(path)?.len()))),
    ];
    if peers::candle::SKIPPED.is_none() {
        subjects.push(Subject::new("candle", 0, || {
            repeat(&|| peers::candle::load(&[path], &[]).map(|_| tensors))
        }));
    }
    let title = format!("Open a file of {tensors} tensors, cached, {HEADERS} times per sample");
    let row = measure(options, "header", &title, subjects, skipped())?;
    row.publish(options)?;
    println!("reach: DiskMap at most 0.25 of the crate");
    Ok(())
}

/// A header like that of a real model, with a hole in the file as data.
fn write_header(path: &Path, tensors: usize) -> Result<()> {
    let mut json = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut begin = 0;
    for i in 0..tensors {
        let end = begin + 3072 * 2;
        json.push_str(&format!(
            ",\"blocks.{}.transformer.attn.{i}.to_add_out.weight\":{{\"dtype\":\"BF16\",\"shape\":[1,3072],\"data_offsets\":[{begin},{end}]}}",
            i / 6
        ));
        begin = end;
    }
    json.push('}');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    std::fs::write(path, &header).with_context(|| path.display().to_string())?;
    Ok(File::options().write(true).open(path)?.set_len((header.len() + begin) as u64)?)
}

/// Opens the checkpoint and reads one tensor, as one file and as 40.
pub(crate) fn one_tensor(options: &Options, args: &Args) -> Result<()> {
    one_tensor_of(options, "one-tensor", &checkpoint(options, args.given())?)?;
    if args.given().is_some() {
        return Ok(());
    }
    one_tensor_of(options, "one-tensor-shards", &synthesised(options, 40)?)
}

/// Compares our crate, bare reads of the same bytes, and other readers.
fn one_tensor_of(options: &Options, row: &str, path: &Path) -> Result<()> {
    let map = DiskMap::open(path)?;
    let tensors = map.len();
    let info = map.tensor(TENSOR).context("the checkpoint has no img_in.weight")?;
    let (range, bytes) = (info.range(), info.meta().bytes());
    let expected = map.get(TENSOR)?.into_bytes();
    let asked = map.bytes_read();
    println!("{tensors} tensors; bytes asked for: headers {} + tensor {bytes} = {asked}", asked - bytes);
    let files: Vec<PathBuf> = map.files().map(|file| PathBuf::from(file.as_ref())).collect();
    let index = (files.len() > 1).then(|| path.to_owned());
    let headers = files.iter().map(|file| header_bytes(file)).collect::<Result<Vec<_>>>()?;
    ensure!(peers::mapped_one(&files, TENSOR)? == expected, "the safetensors crate returns other bytes");
    let bare_reads = || bare(index.as_deref(), &files, &headers, range);
    ensure!(bare_reads()? == expected, "the bare reads return other bytes");
    let mut subjects = vec![
        Subject::new("bare reads of the same bytes", 0, || repeat(&bare_reads)),
        Subject::new("DiskMap", 0, || {
            for _ in 0..TIMES {
                black_box(DiskMap::open(path)?.get(TENSOR)?);
            }
            Ok(())
        }),
        Subject::new("safetensors + memmap2, all files", 0, || repeat(&|| peers::mapped_one(&files, TENSOR))),
    ];
    if peers::candle::SKIPPED.is_none() {
        let files = &files;
        subjects.push(Subject::new("candle, all files", 0, move || {
            repeat(&|| peers::candle::load(files, &[TENSOR]).map(|_| Vec::new()))
        }));
    }
    let count = files.len();
    let title = format!(
        "Open {} ({count} files) and read {TENSOR}, cached, {TIMES} times per sample",
        path.display()
    );
    let measured = measure(options, row, &title, subjects, skipped())?;
    measured.publish(options)?;
    let entries = tensors * if index.is_some() { 2 } else { 1 };
    let of = if index.is_some() { "tensor and index entry" } else { "tensor in the file" };
    println!("{}", measured.excess(1, 0, f64::from(TIMES) * entries as f64, of));
    println!("{}", measured.against_the_larger(1, &[(&[2], 1.0)]));
    println!("reach: at most 0.6 microseconds, at most 0.5");
    Ok(())
}

fn skipped() -> Vec<String> {
    peers::candle::SKIPPED.iter().map(|why| (*why).to_owned()).collect()
}

fn repeat(once: &dyn Fn() -> Result<Vec<u8>>) -> Result<()> {
    for _ in 0..TIMES {
        black_box(once()?);
    }
    Ok(())
}

/// The length of a file's header, including the eight bytes that store it.
fn header_bytes(path: &Path) -> Result<u64> {
    let mut length = [0; 8];
    rustix::io::pread(File::open(path)?, &mut length, 0)?;
    Ok(8 + u64::from_le_bytes(length))
}

/// What every reader that looks into all files must do: open each file, and read the length of its
/// header and the header; before that the index, and after that the tensor.
fn bare(index: Option<&Path>, files: &[PathBuf], headers: &[u64], tensor: FileRange) -> Result<Vec<u8>> {
    let read = |file: &File, at: u64, len: u64| -> Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(len as usize);
        let n = rustix::io::pread(file, rustix::buffer::spare_capacity(&mut buffer), at)?;
        ensure!(n as u64 == len, "a short read at {at}");
        Ok(buffer)
    };
    if let Some(path) = index {
        let file = File::open(path)?;
        black_box(read(&file, 0, file.metadata()?.len())?);
    }
    let mut opened = Vec::with_capacity(files.len());
    for (path, header) in files.iter().zip(headers) {
        let file = File::open(path)?;
        black_box(read(&file, 0, 8)?);
        black_box(read(&file, 8, header - 8)?);
        opened.push(file);
    }
    read(&opened[tensor.file.0 as usize], tensor.offset, tensor.bytes)
}

/// Builds the 60-block model inside `skip_init`, and with its weights initialised.
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
