//! `vram extract`: tensors of any readable checkpoint into a new file, in bounded memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use globset::GlobMatcher;
use serde::Serialize;
use vram_diskmap::DiskMap;
use vram_types::{ByteSize, DType, FileId, WeightSourceExt};

use crate::args::{Read, at_least_one};
use crate::writer::{NewFile, NewTensor};
use crate::{checkpoint, output, writer};

/// Copy tensors of a checkpoint into a new safetensors file, cast if asked, in bounded memory
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: a safetensors, PyTorch or GGUF file, an index or a folder
    path: PathBuf,
    /// Only tensors whose name matches, as in 'blocks.0.*'; may be given more than once
    #[arg(long, value_name = "GLOB", value_parser = checkpoint::pattern)]
    tensors: Vec<GlobMatcher>,
    /// Cast floating-point tensors, as f32, bf16, f16 or f8_e4m3
    #[arg(long, value_name = "D")]
    dtype: Option<DType>,
    /// The new file
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Replace the new file if it is there
    #[arg(long)]
    force: bool,
    /// How the checkpoint is read
    #[arg(long, value_enum, default_value_t)]
    read: Read,
    /// Threads that read, cast and write; as many as the machine runs at once if not given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Document {
    output: PathBuf,
    tensors: usize,
    bytes: u64,
    bytes_read: u64,
    seconds: f64,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let patterns = args.tensors.clone();
    let wanted = move |name: &str| patterns.is_empty() || patterns.iter().any(|p| p.is_match(name));
    let mut options = DiskMap::options().rename(move |name| wanted(name).then(|| name.to_owned()));
    if let Some(dtype) = args.dtype {
        options = options.dtype(dtype);
    }
    let map = checkpoint::open(options, &args.path, args.read)?;
    ensure!(!map.is_empty(), "{}: no tensor matches", args.path.display());

    let tensors: Vec<NewTensor> = map
        .iter()
        .map(|(name, info)| NewTensor { name: name.to_owned(), meta: info.meta().clone() })
        .collect();
    let metadata: BTreeMap<String, String> =
        (0..map.files().len()).flat_map(|i| map.metadata(FileId(i as u32))).collect();
    let file = NewFile::new(&args.output, tensors, metadata);
    let (count, bytes) = (file.tensors(), file.tensor_bytes());
    let fill = |tensor: &NewTensor, at: u64, piece: &mut [u8]| {
        Ok(map.read_range(&tensor.name, at..at + piece.len() as u64, piece)?)
    };
    let took = writer::write("extracting", &[file], args.force, args.threads, &fill)?;

    let seconds = took.as_secs_f64();
    let document = Document {
        output: args.output.clone(),
        tensors: count,
        bytes,
        bytes_read: map.bytes_read(),
        seconds,
    };
    if json {
        return output::json(&document);
    }
    eprintln!("{}: {count} tensors, {} in {seconds:.2} s", args.output.display(), ByteSize(bytes));
    Ok(())
}
