//! `vram diff`: compares the names, shapes, dtypes and values of two checkpoints in any formats.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use globset::GlobMatcher;
use serde::Serialize;
use vram_diskmap::DiskMap;
use vram_types::{DType, TensorMeta, WeightSource, WeightSourceExt, cast};

use crate::args::Read;
use crate::{checkpoint, output};

/// Elements compared at a time. A multiple of the block size of every dtype.
const PIECE_ELEMENTS: u64 = 1 << 20;

/// Compare two checkpoints: names, shapes, dtypes and values; exits with 1 if they differ
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram diff a.safetensors b.safetensors --tolerance 1e-6
  vram diff model/ copy.safetensors --headers

Exit code: 0 if the checkpoints are equal, 1 if they differ, 2 for any trouble, such as a file
that cannot be read.")]
pub(crate) struct Args {
    /// First checkpoint: a safetensors, PyTorch or GGUF file, an index or a folder
    a: PathBuf,
    /// Second checkpoint
    b: PathBuf,
    /// Only tensors whose name matches, such as 'blocks.0.*'; can be repeated
    #[arg(long, value_name = "GLOB", value_parser = checkpoint::pattern)]
    tensors: Vec<GlobMatcher>,
    /// Compare only names, shapes and dtypes, from the headers
    #[arg(long)]
    headers: bool,
    /// Largest difference between two values that still counts as equal
    #[arg(long, value_name = "X", default_value = "0", value_parser = tolerance)]
    tolerance: f64,
    /// How to read the checkpoints
    #[arg(long, env = "VRAM_READ", value_enum, default_value_t)]
    read: Read,
}

/// Parses the largest difference that counts as none.
fn tolerance(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "is not a number".to_owned())?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err("must be zero or more, and finite".to_owned())
    }
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    equal: bool,
    compared: usize,
    only_in_a: Vec<&'a str>,
    only_in_b: Vec<&'a str>,
    /// Tensors with the same name but different shapes or dtypes.
    metas: Vec<MetaDifference<'a>>,
    /// Tensors with the same shape but different values.
    values: Vec<ValueDifference<'a>>,
    /// Tensors that cannot be read, and so were not compared.
    unreadable: BTreeSet<&'a str>,
}

#[derive(Debug, Serialize)]
struct MetaDifference<'a> {
    name: &'a str,
    a: String,
    b: String,
}

#[derive(Clone, Debug, Serialize)]
struct ValueDifference<'a> {
    name: &'a str,
    /// How many elements differ.
    elements: u64,
    of: u64,
    /// The largest difference; absent if the values are not comparable as numbers, or one of them
    /// is NaN.
    most: Option<f64>,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<ExitCode> {
    let [a, b] = [&args.a, &args.b].map(|path| checkpoint::open(DiskMap::options(), path, args.read));
    let (a, b) = (a?, b?);
    let document = compare(args, &a, &b)?;
    if json {
        output::json(&document)?;
    } else {
        print(&document)?;
    }
    Ok(if document.equal { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn compare<'a>(args: &Args, a: &'a DiskMap, b: &'a DiskMap) -> Result<Document<'a>> {
    let wanted = |name: &&str| args.tensors.is_empty() || args.tensors.iter().any(|p| p.is_match(name));
    let names = |map: &'a DiskMap| -> BTreeSet<&'a str> {
        map.iter()
            .map(|(name, _)| name)
            .chain(map.unreadable().map(|(name, _)| name))
            .filter(wanted)
            .collect()
    };
    let (in_a, in_b) = (names(a), names(b));
    if !args.tensors.is_empty() && in_a.is_empty() && in_b.is_empty() {
        let paths = format!("{} and {}", args.a.display(), args.b.display());
        return Err(checkpoint::none_matches(&args.tensors, &paths, a.names().chain(b.names())));
    }
    let unreadable: BTreeSet<&str> =
        [a, b].into_iter().flat_map(DiskMap::unreadable).map(|(name, _)| name).filter(wanted).collect();
    let (mut metas, mut values, mut compared) = (Vec::new(), Vec::new(), 0);
    for &name in in_a.intersection(&in_b).filter(|name| !unreadable.contains(*name)) {
        let (meta_a, meta_b) = (a.require(name)?.meta, b.require(name)?.meta);
        compared += 1;
        if meta_a != meta_b {
            let text = |meta: &TensorMeta| format!("{} {}", meta.dtype(), meta.shape());
            metas.push(MetaDifference { name, a: text(&meta_a), b: text(&meta_b) });
        }
        if meta_a.shape() == meta_b.shape() && !args.headers {
            values.extend(compare_values(name, (a, &meta_a), (b, &meta_b), args.tolerance)?);
        }
    }
    let only_in_a: Vec<&str> = in_a.difference(&in_b).copied().collect();
    let only_in_b: Vec<&str> = in_b.difference(&in_a).copied().collect();
    // A tensor that was not compared cannot count as equal.
    let equal = [only_in_a.len(), only_in_b.len(), metas.len(), values.len(), unreadable.len()] == [0; 5];
    Ok(Document { equal, compared, only_in_a, only_in_b, metas, values, unreadable })
}

/// Compares floats of any two dtypes as numbers and everything else as bytes, in pieces.
fn compare_values<'a>(
    name: &'a str,
    a: (&DiskMap, &TensorMeta),
    b: (&DiskMap, &TensorMeta),
    tolerance: f64,
) -> Result<Option<ValueDifference<'a>>> {
    let of = a.1.elements();
    let numbers = |dtype| cast::can_cast(dtype, DType::F32);
    let as_numbers = numbers(a.1.dtype()) && numbers(b.1.dtype());
    if !as_numbers && a.1.dtype() != b.1.dtype() {
        return Ok(None); // the difference in dtype is already reported
    }
    let mut found = ValueDifference { name, elements: 0, of, most: as_numbers.then_some(0.0) };
    let mut first = 0;
    while first < of {
        let last = of.min(first + PIECE_ELEMENTS);
        let (left, right) = (piece(name, a, first, last)?, piece(name, b, first, last)?);
        if a.1.dtype() != b.1.dtype() || left != right {
            match as_numbers {
                true => {
                    let (left, right) = (floats(&left, a.1.dtype())?, floats(&right, b.1.dtype())?);
                    count_floats(&left, &right, tolerance, &mut found);
                }
                false => count_bytes(&left, &right, a.1.dtype(), &mut found),
            }
        }
        first = last;
    }
    Ok((found.elements > 0).then_some(found))
}

fn piece(name: &str, (map, meta): (&DiskMap, &TensorMeta), first: u64, last: u64) -> Result<Vec<u8>> {
    let bytes = |elements| meta.dtype().bytes_of(elements).unwrap_or(meta.bytes());
    let mut piece = vec![0; (bytes(last) - bytes(first)) as usize];
    map.read_range(name, bytes(first)..bytes(last), &mut piece)?;
    Ok(piece)
}

/// Converts to f64, the narrowest dtype that holds the floats of all dtypes exactly.
fn floats(bytes: &[u8], dtype: DType) -> Result<Vec<f64>> {
    let size = dtype.layout().block_bytes as usize;
    let mut wide = vec![0; bytes.len() / size * 8];
    cast::cast(bytes, dtype, &mut wide, DType::F64)?;
    Ok(wide.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect())
}

fn count_floats(left: &[f64], right: &[f64], tolerance: f64, found: &mut ValueDifference<'_>) {
    for (&x, &y) in left.iter().zip(right) {
        if x == y || x.is_nan() && y.is_nan() {
            continue;
        }
        let apart = (x - y).abs();
        // NaN is never within a tolerance.
        if apart.is_nan() || apart > tolerance {
            found.elements += 1;
            found.most = found.most.filter(|_| !apart.is_nan()).map(|most| most.max(apart));
        }
    }
}

fn count_bytes(left: &[u8], right: &[u8], dtype: DType, found: &mut ValueDifference<'_>) {
    let layout = dtype.layout();
    let blocks = left.chunks(layout.block_bytes as usize).zip(right.chunks(layout.block_bytes as usize));
    found.elements += blocks.filter(|(a, b)| a != b).count() as u64 * u64::from(layout.block_elements);
}

fn print(document: &Document<'_>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for name in &document.only_in_a {
        writeln!(out, "only in the first: {name}")?;
    }
    for name in &document.only_in_b {
        writeln!(out, "only in the second: {name}")?;
    }
    for MetaDifference { name, a, b } in &document.metas {
        writeln!(out, "{name}: {a} vs {b}")?;
    }
    for ValueDifference { name, elements, of, most } in &document.values {
        let most = most.map_or(String::new(), |most| format!(", by at most {most:e}"));
        writeln!(out, "{name}: {elements} of {of} elements differ{most}")?;
    }
    for name in &document.unreadable {
        writeln!(out, "not compared, because it cannot be read: {name}")?;
    }
    let equal = if document.equal { "equal" } else { "different" };
    writeln!(out, "{equal}; {} compared", output::count(document.compared, "tensor"))?;
    out.flush()
}
