//! `vram extract`: tensors of any readable checkpoint into new safetensors files, in bounded memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use globset::GlobMatcher;
use serde::Serialize;
use vram_diskmap::{DiskMap, Extract};
use vram_types::{ByteSize, CancelToken, DType, FileId, WeightSource, WeightSourceExt};

use crate::args::{Read, at_least_one};
use crate::checkpoint::{self, Checkpoint};
use crate::progress::Progress;
use crate::{output, writer};

/// Copy tensors of a checkpoint into a new safetensors file, converted and cast if asked, in bounded memory
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: a safetensors, PyTorch or GGUF file, an index or a folder
    path: PathBuf,
    /// Only tensors whose name matches, as in 'blocks.0.*'; may be given more than once
    #[arg(long, value_name = "GLOB", value_parser = checkpoint::pattern)]
    tensors: Vec<GlobMatcher>,
    /// Apply the rules of this file first: other names, parts, wholes, shapes and dtypes; --tensors means the new names
    #[arg(long, value_name = "FILE.toml")]
    convert: Option<PathBuf>,
    /// Cast floating-point tensors, as f32, bf16, f16 or f8_e4m3; quantised blocks become f32 if nothing is asked for
    #[arg(long, value_name = "D")]
    dtype: Option<DType>,
    /// The new file; with --shard-size, the name that the files' names are made from
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Spread over files of at most this size, as 5GB, with an index; a larger tensor has a file of its own
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<ByteSize>,
    /// Write a checksum of each tensor into the new file
    #[arg(long)]
    checksums: bool,
    /// Before anything is written, hold the checkpoint to the checksums that it has; a failure if it has none
    #[arg(long)]
    verify: bool,
    /// Let pass what real safetensors files get wrong (bytes that belong to no tensor, blanks) and say what it was
    #[arg(long)]
    lenient: bool,
    /// Replace what is there
    #[arg(long)]
    force: bool,
    /// How the checkpoint is read
    #[arg(long, env = "VRAM_READ", value_enum, default_value_t)]
    read: Read,
    /// Threads that read; six if not given. As many as the machine runs at once, eight at most, cast and write
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Document {
    /// What to open: the file, or the index of the shards.
    output: PathBuf,
    files: Vec<PathBuf>,
    tensors: usize,
    bytes: u64,
    bytes_read: u64,
    seconds: f64,
    /// How many tensors were held to a checksum.
    verified: usize,
    /// Tensors that were asked for and that cannot be read.
    left_out: Vec<String>,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let options = DiskMap::options().lenient(args.lenient);
    let checkpoint = Checkpoint::open(options, &args.path, args.read, args.convert.as_deref())?;
    let (map, source) = (checkpoint.map(), checkpoint.source());
    let names: Vec<&str> = source.names().filter(|name| checkpoint::wanted(&args.tensors, name)).collect();
    if names.is_empty() {
        return Err(checkpoint::none_matches(&args.tensors, &args.path, source));
    }
    for what in map.leniencies() {
        eprintln!("let pass: {what}");
    }
    let left_out = left_out(args, map);
    for what in &left_out {
        eprintln!("left out, because it cannot be read: {what}");
    }
    let extract = extraction(args, &checkpoint, &names);
    writer::may_write(extract.files(&args.output)?.iter().map(PathBuf::as_path), args.force)?;
    let verified = if args.verify { verify(&checkpoint, &names, &args.path)? } else { 0 };

    let progress = Progress::new("extracting", bytes(source, &names, args.dtype)?);
    let mut before = 0;
    let done = extract.run(&args.output, &CancelToken::new(), &mut |so_far| {
        progress.add(so_far.bytes_done - before);
        before = so_far.bytes_done;
    });
    let seconds = progress.finish().as_secs_f64();
    let done = done?;
    if json {
        let (output, files, tensors, bytes) = (done.output, done.files, done.tensors, done.bytes);
        let bytes_read = map.bytes_read();
        return output::json(&Document {
            output,
            files,
            tensors,
            bytes,
            bytes_read,
            seconds,
            verified,
            left_out,
        });
    }
    let (tensors, bytes) = (output::count(done.tensors, "tensor"), ByteSize(done.bytes));
    eprintln!("{}: {tensors}, {bytes} in {seconds:.2} s", done.output.display());
    Ok(())
}

fn extraction<'a>(args: &Args, checkpoint: &'a Checkpoint, names: &[&'a str]) -> Extract<'a> {
    let map = checkpoint.map();
    let metadata: BTreeMap<String, String> =
        (0..map.files().len()).flat_map(|i| map.metadata(FileId(i as u32))).collect();
    let mut extract = Extract::new(checkpoint.source())
        .names(names.iter().copied())
        .metadata(metadata)
        .checksums(args.checksums);
    if let Some(threads) = args.threads {
        extract = extract.threads(threads);
    }
    if let Some(dtype) = args.dtype {
        extract = extract.dtype(dtype);
    }
    if let Some(ByteSize(most)) = args.shard_size {
        extract = extract.shard_bytes(most);
    }
    extract
}

/// Tensors that cannot be read and are asked for; under --convert, where new names say nothing of them, all of them.
fn left_out(args: &Args, map: &DiskMap) -> Vec<String> {
    let is_asked_for = |name: &str| args.convert.is_some() || checkpoint::wanted(&args.tensors, name);
    map.unreadable()
        .filter(|(name, _)| is_asked_for(name))
        .map(|(name, why)| format!("{name}: {why}"))
        .collect()
}

/// Bytes that will be written.
fn bytes(source: &dyn WeightSource, names: &[&str], dtype: Option<DType>) -> Result<u64> {
    let mut sum = 0u64;
    for name in names {
        let meta = source.require(name)?.meta;
        let cast = dtype.filter(|_| meta.dtype().is_float()).and_then(|to| to.bytes_of(meta.elements()));
        sum = sum.saturating_add(cast.unwrap_or(meta.bytes()));
    }
    Ok(sum)
}

/// Holds what is asked for to its checksums, or what that is made of.
fn verify(checkpoint: &Checkpoint, names: &[&str], path: &Path) -> Result<usize> {
    let cancel = CancelToken::new();
    let verified = match checkpoint {
        Checkpoint::Plain(map) => map.verify_tensors(names.iter().copied(), &cancel)?,
        Checkpoint::Converted(converted) => {
            let made_of: BTreeSet<&str> = names.iter().flat_map(|name| converted.made_of(name)).collect();
            converted.source().verify_tensors(made_of, &cancel)?
        }
    };
    ensure!(verified > 0, "{}: no tensor has a checksum to be held to", path.display());
    Ok(verified)
}
