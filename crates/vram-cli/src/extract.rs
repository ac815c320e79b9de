//! `vram extract`: copies tensors of any readable checkpoint to new safetensors files, in bounded
//! memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, ensure};
use globset::GlobMatcher;
use serde::Serialize;
use vram_diskmap::{DiskMap, Extract};
use vram_types::{ByteSize, CancelToken, DType, FileId, SourceError};

use crate::args::{Read, at_least_one};
use crate::checkpoint::{self, Checkpoint};
use crate::outputs::{Kind, Outputs};
use crate::progress::Progress;
use crate::writer::index_path;
use crate::{output, terminal};

/// Copy tensors of a checkpoint to a new safetensors file, in bounded memory; can convert and cast
/// them
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram extract model.safetensors --tensors 'blocks.0.*' --dtype f16 -o block0.safetensors
  vram extract model.gguf -o model.safetensors
  vram extract model/ --shard-size 5GB --checksums -o copy.safetensors")]
pub(crate) struct Args {
    /// Checkpoint: a safetensors, PyTorch or GGUF file, an index or a folder
    path: PathBuf,
    /// Only tensors whose name matches, such as 'blocks.0.*'; can be repeated
    #[arg(long, value_name = "GLOB", value_parser = checkpoint::pattern)]
    tensors: Vec<GlobMatcher>,
    /// Apply the conversion rules in this file first; --tensors then matches the new names
    #[arg(long, value_name = "FILE.toml")]
    convert: Option<PathBuf>,
    /// Cast floating-point tensors to this dtype, such as f32, bf16, f16 or f8_e4m3; without it,
    /// quantised blocks become f32. Weights with scales beside them (fp8, int8, nf4) are decoded
    /// with these, or refused by name
    #[arg(long, value_name = "D")]
    dtype: Option<DType>,
    /// File to write; with --shard-size, the base for the names of the files
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Split into files of at most this size, such as 5GB, with an index; a larger tensor gets its
    /// own file
    #[arg(long, value_name = "SIZE")]
    shard_size: Option<ByteSize>,
    /// Write a checksum of each tensor to the new file
    #[arg(long)]
    checksums: bool,
    /// Check the tensors against the checksums in the checkpoint before writing; fails if it has
    /// none
    #[arg(long)]
    verify: bool,
    /// Accept and report common defects of safetensors files: bytes that belong to no tensor,
    /// extra blanks
    #[arg(long)]
    lenient: bool,
    /// Write tensors that repeat a few stored bytes to many times their size as well
    #[arg(long)]
    allow_expanded: bool,
    /// Leave out tensors that cannot be read, instead of failing with exit code 3
    #[arg(long)]
    skip_unreadable: bool,
    /// Replace existing files
    #[arg(long)]
    force: bool,
    /// How to read the checkpoint
    #[arg(long, env = "VRAM_READ", value_enum, default_value_t)]
    read: Read,
    /// Number of threads that read, six by default; besides these, one thread per core, at most
    /// eight, casts and writes
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Document {
    /// The file to open: the output, or the index of the shards.
    output: String,
    files: Vec<String>,
    tensors: usize,
    bytes: u64,
    bytes_read: u64,
    seconds: f64,
    /// How many tensors were checked against a checksum.
    verified: usize,
    /// Requested tensors that cannot be read.
    left_out: Vec<String>,
    /// Tensors that weights were decoded with, or that were beside those, and that are not in the new file.
    applied: Vec<String>,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let options = DiskMap::options().lenient(args.lenient);
    let checkpoint = Checkpoint::open(options, &args.path, args.read, args.convert.as_deref())?;
    let (map, source) = (checkpoint.map(), checkpoint.source());
    let names: Vec<&str> = source.names().filter(|name| checkpoint::wanted(&args.tensors, name)).collect();
    let left_out = left_out(args, map);
    if !left_out.is_empty() && !args.skip_unreadable {
        return Err(LeftOut(left_out).into());
    }
    if names.is_empty() {
        return Err(checkpoint::none_matches(
            &args.tensors,
            &args.path.display().to_string(),
            source.names(),
        ));
    }
    for what in map.leniencies() {
        terminal::note(format_args!("accepted: {what}"));
    }
    match (map.unread().next(), map.unread().len()) {
        (Some((name, what)), 1) => terminal::note(format_args!("left unread: {name}: {what}")),
        (Some((name, what)), n) => {
            terminal::note(format_args!("left unread: {n} values, {name} for one: {what}"));
        }
        (None, _) => {}
    }
    for what in &left_out {
        terminal::note(format_args!("skipped, because it cannot be read: {what}"));
    }
    let extract = extraction(args, &checkpoint, &names);
    check_outputs(args, json, &checkpoint, &extract)?;
    let verified = if args.verify { verify(&checkpoint, &names, &args.path)? } else { 0 };

    let progress = Progress::new("extracting", extract.bytes()?);
    let mut before = 0;
    let done = extract.run(&args.output, &CancelToken::new(), &mut |so_far| {
        progress.add(so_far.bytes_done - before);
        before = so_far.bytes_done;
    });
    let seconds = progress.finish().as_secs_f64();
    let done = done?;
    if let [first, ..] = done.applied.as_slice() {
        let count = output::count(done.applied.len(), "tensor");
        terminal::note(format_args!(
            "decoded weights with what is beside them: {count} applied or not needed, {first} for one"
        ));
    }
    if json {
        // Paths that are not UTF-8 have no JSON of their own.
        let printed = |path: &PathBuf| path.display().to_string();
        let (output, files) = (printed(&done.output), done.files.iter().map(printed).collect());
        let (tensors, bytes) = (done.tensors, done.bytes);
        let applied = done.applied;
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
            applied,
        });
    }
    let (tensors, bytes) = (output::count(done.tensors, "tensor"), ByteSize(done.bytes));
    terminal::note(format_args!("{}: {tensors}, {bytes} in {seconds:.2} s", done.output.display()));
    Ok(())
}

/// Checks every file that would be written.
fn check_outputs(args: &Args, json: bool, checkpoint: &Checkpoint, extract: &Extract<'_>) -> Result<()> {
    let mut outputs = Outputs::new(args.force, json);
    outputs.reads_checkpoint(&args.path, checkpoint.map());
    if let Some(rules) = &args.convert {
        outputs.reads(rules);
    }
    let files = extract.files(&args.output).map_err(flagged)?;
    let mut bytes = Some(extract.bytes().map_err(flagged)?);
    for file in files {
        let target = outputs.add("--output", &file, Kind::TensorsInPlaces)?;
        // All files go to one folder.
        outputs.needs(&target, bytes.take().unwrap_or(0))?;
    }
    if args.shard_size.is_some() {
        outputs.add("--output", &index_path(&args.output), Kind::Text)?;
    }
    Ok(())
}

/// Requested tensors that cannot be read, which `--skip-unreadable` would accept.
#[derive(Debug)]
pub(crate) struct LeftOut(Vec<String>);

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.0.first().map_or("", String::as_str);
        let more = match self.0.len().saturating_sub(1) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        write!(f, "cannot be read: {first}{more}; --skip-unreadable leaves them out")
    }
}

impl std::error::Error for LeftOut {}

/// Names the flag for what the library's option would accept.
fn flagged(error: SourceError) -> anyhow::Error {
    let hint = if error.message().contains("`allow_expanded`") { "; use --allow-expanded" } else { "" };
    anyhow!("{error}{hint}")
}

fn extraction<'a>(args: &Args, checkpoint: &'a Checkpoint, names: &[&'a str]) -> Extract<'a> {
    let map = checkpoint.map();
    let metadata: BTreeMap<String, String> =
        (0..map.files().len()).flat_map(|i| map.metadata(FileId(i as u32))).collect();
    let mut extract = Extract::new(checkpoint.source())
        .names(names.iter().copied())
        .metadata(metadata)
        .checksums(args.checksums)
        .allow_expanded(args.allow_expanded);
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

/// Requested tensors that cannot be read. With --convert all of them, because new names do not
/// tell which are needed.
fn left_out(args: &Args, map: &DiskMap) -> Vec<String> {
    let is_asked_for = |name: &str| args.convert.is_some() || checkpoint::wanted(&args.tensors, name);
    map.unreadable()
        .filter(|(name, _)| is_asked_for(name))
        .map(|(name, why)| format!("{name}: {why}"))
        .collect()
}

/// Checks the requested tensors, or the tensors that they are made from, against their checksums.
fn verify(checkpoint: &Checkpoint, names: &[&str], path: &Path) -> Result<usize> {
    let cancel = CancelToken::new();
    let verified = match checkpoint {
        Checkpoint::Plain(map) => map.verify_tensors(names.iter().copied(), &cancel)?,
        Checkpoint::Converted(converted) => {
            let made_of: BTreeSet<&str> = names.iter().flat_map(|name| converted.made_of(name)).collect();
            converted.source().verify_tensors(made_of, &cancel)?
        }
    };
    ensure!(verified > 0, "{}: no tensor has a checksum to check", path.display());
    Ok(verified)
}
