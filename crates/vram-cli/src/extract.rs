//! `vram extract`: tensors of any readable checkpoint into new safetensors files, in bounded memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use globset::GlobMatcher;
use serde::Serialize;
use vram_diskmap::{DiskMap, Extract};
use vram_types::{ByteSize, CancelToken, DType, FileId};

use crate::args::{Read, at_least_one};
use crate::progress::Progress;
use crate::{checkpoint, output, writer};

/// Copy tensors of a checkpoint into a new safetensors file, cast if asked, in bounded memory
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The checkpoint: a safetensors, PyTorch or GGUF file, an index or a folder
    path: PathBuf,
    /// Only tensors whose name matches, as in 'blocks.0.*'; may be given more than once
    #[arg(long, value_name = "GLOB", value_parser = checkpoint::pattern)]
    tensors: Vec<GlobMatcher>,
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
    /// Threads that read and cast; twice as many as the machine runs at once if not given
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
    let map = open(args)?;
    ensure!(!map.is_empty(), "{}: no tensor matches", args.path.display());
    for what in map.leniencies() {
        eprintln!("let pass: {what}");
    }
    let left_out: Vec<String> = map.unreadable().map(|(name, why)| format!("{name}: {why}")).collect();
    for what in &left_out {
        eprintln!("left out, because it cannot be read: {what}");
    }
    let metadata: BTreeMap<String, String> =
        (0..map.files().len()).flat_map(|i| map.metadata(FileId(i as u32))).collect();
    let mut extract = Extract::new(&map).metadata(metadata).checksums(args.checksums);
    if let Some(threads) = args.threads {
        extract = extract.threads(threads);
    }
    if let Some(ByteSize(most)) = args.shard_size {
        extract = extract.shard_bytes(most);
    }
    writer::may_write(extract.files(&args.output)?.iter().map(PathBuf::as_path), args.force)?;
    let verified = if args.verify { verify(&map, &args.path)? } else { 0 };

    let progress = Progress::new("extracting", map.iter().map(|(_, info)| info.meta().bytes()).sum());
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
    eprintln!(
        "{}: {} tensors, {} in {seconds:.2} s",
        done.output.display(),
        done.tensors,
        ByteSize(done.bytes)
    );
    Ok(())
}

fn open(args: &Args) -> Result<DiskMap> {
    let patterns = args.tensors.clone();
    let wanted = move |name: &str| patterns.is_empty() || patterns.iter().any(|p| p.is_match(name));
    let mut options =
        DiskMap::options().lenient(args.lenient).rename(move |name| wanted(name).then(|| name.to_owned()));
    if let Some(dtype) = args.dtype {
        options = options.dtype(dtype);
    }
    Ok(checkpoint::open(options, &args.path, args.read)?)
}

fn verify(map: &DiskMap, path: &Path) -> Result<usize> {
    let verified = map.verify(&CancelToken::new())?;
    ensure!(verified > 0, "{}: no tensor has a checksum to be held to", path.display());
    Ok(verified)
}
