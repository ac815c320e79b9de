//! `vram inspect`: what is in a checkpoint, from its headers alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use globset::GlobMatcher;
use serde::Serialize;
use vram_diskmap::{BlockType, Converted, DiskMap};
use vram_types::{ByteSize, FileId, WeightSource};

use crate::args::Read;
use crate::checkpoint::{self, Checkpoint};
use crate::output;

/// List the tensors of checkpoints: name, dtype, shape, bytes, file and offset; reads headers only
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Checkpoints: safetensors, PyTorch or GGUF files, *.index.json, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tensors whose name matches, as in 'blocks.0.*'
    #[arg(long, value_name = "GLOB", value_parser = checkpoint::pattern)]
    tensors: Option<GlobMatcher>,
    /// Show what the rules of this file make of each checkpoint, and of which tensors
    #[arg(long, value_name = "FILE.toml")]
    convert: Option<PathBuf>,
    /// Let pass what real safetensors files get wrong (bytes that belong to no tensor, blanks) and say what it was
    #[arg(long)]
    lenient: bool,
    /// Also print the files' metadata: __metadata__ of safetensors, key-value pairs of GGUF
    #[arg(long)]
    metadata: bool,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    tensors: Vec<Tensor<'a>>,
    totals: Vec<Total>,
    bytes: u64,
    /// How much was read to find this out.
    bytes_read: u64,
    /// How each file would be read.
    reading: Vec<Reading<'a>>,
    /// Tensors that are there and that cannot be read.
    unreadable: Vec<Unreadable<'a>>,
    /// What was wrong with the files and was let pass.
    leniencies: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metadata: Vec<Metadata<'a>>,
}

#[derive(Debug, Serialize)]
struct Reading<'a> {
    file: &'a Path,
    file_system: Option<&'static str>,
    /// How bytes come that are not in the page cache.
    path: &'static str,
    why: String,
    alignment: Option<usize>,
    cached_bytes: Option<u64>,
    bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Unreadable<'a> {
    name: &'a str,
    why: &'a str,
}

#[derive(Debug, Serialize)]
struct Metadata<'a> {
    file: &'a Path,
    pairs: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Tensor<'a> {
    name: &'a str,
    /// As it is stored: quantised blocks by their own name.
    dtype: &'static str,
    shape: &'a [usize],
    /// In the file.
    bytes: u64,
    file: &'a Path,
    /// Nothing for what rules put together: it does not lie in one place.
    offset: Option<u64>,
    /// Of which tensors of the files rules make it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    made_of: Vec<&'a str>,
}

#[derive(Debug, Serialize)]
struct Total {
    dtype: &'static str,
    tensors: usize,
    bytes: u64,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let open = |path: &PathBuf| {
        let options = DiskMap::options().lenient(args.lenient);
        Checkpoint::open(options, path, Read::Auto, args.convert.as_deref())
    };
    let checkpoints = args.paths.iter().map(open).collect::<Result<Vec<_>>>()?;
    let mut document = collect(&checkpoints, args.tensors.as_ref());
    if args.metadata {
        document.metadata = checkpoints.iter().map(Checkpoint::map).flat_map(metadata).collect();
    }
    if json { output::json(&document) } else { Ok(print(&document)?) }
}

fn collect<'a>(checkpoints: &'a [Checkpoint], pattern: Option<&GlobMatcher>) -> Document<'a> {
    let mut tensors: Vec<Tensor<'_>> = Vec::new();
    for checkpoint in checkpoints {
        match checkpoint {
            Checkpoint::Plain(map) => tensors.extend(stored(map)),
            Checkpoint::Converted(converted) => tensors.extend(made(converted)),
        }
    }
    tensors.retain(|tensor| pattern.is_none_or(|p| p.is_match(tensor.name)));
    let mut totals = BTreeMap::<&str, Total>::new();
    for &Tensor { dtype, bytes, .. } in &tensors {
        let total = totals.entry(dtype).or_insert(Total { dtype, tensors: 0, bytes: 0 });
        total.tensors += 1;
        total.bytes += bytes;
    }
    let mut totals: Vec<Total> = totals.into_values().collect();
    totals.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    let bytes = totals.iter().map(|t| t.bytes).sum();
    let maps = || checkpoints.iter().map(Checkpoint::map);
    let unreadable =
        maps().flat_map(DiskMap::unreadable).map(|(name, why)| Unreadable { name, why }).collect();
    let leniencies = maps().flat_map(DiskMap::leniencies).collect();
    let bytes_read = maps().map(DiskMap::bytes_read).sum();
    let reading = maps().flat_map(reading).collect();
    Document { tensors, totals, bytes, bytes_read, reading, unreadable, leniencies, metadata: Vec::new() }
}

fn reading(map: &DiskMap) -> impl Iterator<Item = Reading<'_>> {
    map.files().zip(0..).filter_map(|(file, i)| {
        let reading = map.reading(FileId(i))?;
        Some(Reading {
            file,
            file_system: reading.file_system,
            path: reading.path.name(),
            why: reading.why,
            alignment: reading.alignment,
            cached_bytes: reading.cached_bytes,
            bytes: std::fs::metadata(file).ok().map(|meta| meta.len()),
        })
    })
}

/// Tensors as the files have them.
fn stored(map: &DiskMap) -> impl Iterator<Item = Tensor<'_>> {
    map.iter().map(|(name, info)| {
        let dtype = info.block_type().map_or(info.dtype().name(), BlockType::name);
        let range = info.range();
        let file = map.file(range.file).unwrap_or(Path::new(""));
        let (shape, bytes, offset) = (&info.shape()[..], range.bytes, Some(range.offset));
        Tensor { name, dtype, shape, bytes, file, offset, made_of: Vec::new() }
    })
}

/// Tensors as rules make them.
fn made(converted: &Converted) -> impl Iterator<Item = Tensor<'_>> {
    converted.iter().map(|(name, located)| {
        let (dtype, shape) = (located.meta.dtype().name(), &located.meta.shape()[..]);
        let file = converted.file(located.storage.file).unwrap_or(Path::new(""));
        let offset = match located.ranges.as_slice() {
            [range] => Some(range.offset),
            _ => None,
        };
        let bytes = located.meta.bytes();
        Tensor { name, dtype, shape, bytes, file, offset, made_of: converted.made_of(name) }
    })
}

fn metadata(map: &DiskMap) -> impl Iterator<Item = Metadata<'_>> {
    map.files()
        .zip(0..)
        .map(|(file, i)| Metadata { file, pairs: map.metadata(FileId(i)).into_iter().collect() })
}

fn print(document: &Document<'_>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut file = None;
    let mut rows = Vec::new();
    for tensor in &document.tensors {
        if file != Some(tensor.file) {
            table(&mut out, &mut rows)?;
            writeln!(out, "{}", tensor.file.display())?;
            file = Some(tensor.file);
        }
        let shape = tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        rows.push([
            format!("  {}", tensor.name),
            tensor.dtype.to_owned(),
            format!("[{shape}]"),
            ByteSize(tensor.bytes).to_string(),
            tensor.offset.map_or("-".to_owned(), |offset| offset.to_string()),
            made_of(&tensor.made_of),
        ]);
    }
    table(&mut out, &mut rows)?;
    for reading in &document.reading {
        writeln!(out, "{}", said(reading, document.reading.len() > 1))?;
    }
    for Unreadable { name, why } in &document.unreadable {
        writeln!(out, "cannot be read: {name}: {why}")?;
    }
    for what in &document.leniencies {
        writeln!(out, "let pass: {what}")?;
    }
    for (key, value) in document.metadata.iter().flat_map(|m| &m.pairs) {
        writeln!(out, "{key} = {}", shortened(value))?;
    }
    for Total { dtype, tensors, bytes } in &document.totals {
        writeln!(out, "{} of {dtype}, {}", output::count(*tensors, "tensor"), ByteSize(*bytes))?;
    }
    let (count, bytes) = (output::count(document.tensors.len(), "tensor"), ByteSize(document.bytes));
    writeln!(out, "{count} in all, {bytes}; read {} to know it", ByteSize(document.bytes_read))?;
    out.flush()
}

/// How a file would be read, in words.
fn said(reading: &Reading<'_>, with_path: bool) -> String {
    let mut text = if with_path { format!("{}: ", reading.file.display()) } else { String::new() };
    text += &format!("on {}, ", reading.file_system.unwrap_or("an unknown file system"));
    match (reading.cached_bytes, reading.bytes) {
        (Some(cached), Some(all)) => text += &format!("{} % in the page cache, ", cached * 100 / all.max(1)),
        _ => text += "the system does not tell what is cached, ",
    }
    text + &format!("the rest is read {} ({})", reading.path, reading.why)
}

/// The tensors that one is made of, the first few by name.
fn made_of(names: &[&str]) -> String {
    const MOST: usize = 3;
    let shown = names.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A value on a line of its own, cut where it is long.
fn shortened(value: &str) -> String {
    const MOST: usize = 200;
    match value.char_indices().nth(MOST) {
        None => format!("{value:?}"),
        Some((cut, _)) => format!("{:?}... ({} bytes)", &value[..cut], value.len()),
    }
}

/// Prints and forgets the rows.
fn table(out: &mut impl Write, rows: &mut Vec<[String; 6]>) -> io::Result<()> {
    if !rows.is_empty() {
        let made_of = if rows.iter().any(|row| !row[5].is_empty()) { "made of" } else { "" };
        rows.insert(0, ["  tensor", "dtype", "shape", "size", "offset", made_of].map(str::to_owned));
        output::columns(out, rows, [false, false, false, true, true, false])?;
        rows.clear();
    }
    Ok(())
}
