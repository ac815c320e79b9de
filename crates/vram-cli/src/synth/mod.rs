//! `vram synth`: writes checkpoints of a known architecture with random weights, and inputs for
//! them, for experiments and measurements.

mod arch;
mod noise;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use vram_diskmap::{NewFile, NewTensor};
use vram_types::ByteSize;

use crate::args::at_least_one;
use crate::outputs::{Kind, Outputs, Target};
use crate::{output, terminal, writer};
use arch::Weight;

/// Write a checkpoint of a known architecture with random bf16 weights, or inputs for it
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram synth --arch qwen-image-controlnet --blocks 4 -o small.safetensors
  vram synth --arch qwen-image-controlnet --inputs 256 -o in.safetensors")]
pub(crate) struct Args {
    /// Architecture of the weights
    #[arg(long, value_enum)]
    arch: Arch,
    /// Number of blocks
    #[arg(long, value_name = "N", default_value = "60", value_parser = at_least_one)]
    blocks: usize,
    /// Width of every block
    #[arg(long, value_name = "N", default_value = "3072", value_parser = at_least_one)]
    width: usize,
    /// Width of the conditioning
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    in_dim: usize,
    /// Instead of weights, write inputs of this many tokens for `vram forward --input`
    #[arg(long, value_name = "TOKENS", conflicts_with_all = ["blocks", "shards"], value_parser = at_least_one)]
    inputs: Option<usize>,
    /// Seed; the same seed gives the same bytes, whatever the number of threads and shards
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// Split into this many files, with an index
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    shards: usize,
    /// File to write; with --shards, the base for the names of the files
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace existing files
    #[arg(long)]
    force: bool,
    /// Number of threads that generate weights; defaults to one per core
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

/// The architectures that can be generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arch {
    /// The blockwise ControlNet of Qwen-Image
    QwenImageControlnet,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    /// The file to open: the output, or the index of the shards.
    output: &'a Path,
    files: Vec<&'a Path>,
    tensors: usize,
    bytes: u64,
    seconds: f64,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let weights = match (args.arch, args.inputs) {
        (Arch::QwenImageControlnet, None) => {
            arch::qwen_image_controlnet(args.blocks, args.width, args.in_dim)?
        }
        (Arch::QwenImageControlnet, Some(tokens)) => {
            arch::qwen_image_controlnet_inputs(tokens, args.width, args.in_dim)?
        }
    };
    ensure!(args.shards <= weights.len(), "{} tensors are too few for {} shards", weights.len(), args.shards);
    let metadata = vec![("format".to_owned(), "pt".to_owned())];
    let files = shards(&weights, args.shards)
        .into_iter()
        .enumerate()
        .map(|(i, tensors)| {
            let path = shard_path(&args.output, i, args.shards)?;
            Ok(NewFile { path, tensors, metadata: metadata.clone(), checksums: false })
        })
        .collect::<Result<Vec<_>>>()?;
    let by_name: BTreeMap<&str, (usize, &Weight)> =
        weights.iter().enumerate().map(|(i, w)| (w.tensor.name.as_str(), (i, w))).collect();
    let fill = |tensor: &NewTensor, at: u64, piece: &mut [u8]| {
        let (number, weight) = by_name.get(tensor.name.as_str()).context("an unknown tensor")?;
        noise::fill(args.seed, *number as u64, weight.middle, weight.spread, at / 2, piece);
        Ok(())
    };
    let mut outputs = Outputs::new(args.force, json);
    for file in &files {
        let target = outputs.add("--output", file.path(), Kind::TensorsInPlaces)?;
        outputs.needs(&target, file.tensor_bytes())?;
    }
    let index = match args.shards {
        1 => None,
        _ => Some(outputs.add("--output", &writer::index_path(&args.output), Kind::Text)?),
    };
    let took = writer::write("generating weights", &files, args.threads, &fill)?;
    if let Some(index) = &index {
        write_index(index, &files)?;
    }

    let output = index.as_ref().map_or(&*args.output, Target::path);
    let (bytes, seconds) = (files.iter().map(NewFile::tensor_bytes).sum(), took.as_secs_f64());
    let files = files.iter().map(NewFile::path).collect();
    let document = Document { output, files, tensors: weights.len(), bytes, seconds };
    if json {
        return output::json(&document);
    }
    let tensors = output::count(weights.len(), "tensor");
    terminal::note(format_args!("{}: {tensors}, {} in {seconds:.2} s", output.display(), ByteSize(bytes)));
    Ok(())
}

/// Splits the tensors into runs of about the same number of bytes, none of them empty.
fn shards(weights: &[Weight], count: usize) -> Vec<Vec<NewTensor>> {
    let total: u128 = weights.iter().map(|w| u128::from(w.tensor.meta.bytes())).sum();
    let mut shards = vec![Vec::new()];
    let mut before = 0u128;
    for (i, weight) in weights.iter().enumerate() {
        let (done, left) = (shards.len(), count - shards.len());
        let full = before * count as u128 >= total * done as u128;
        // Keep at least one tensor for each remaining shard.
        let must = weights.len() - i <= left;
        if left > 0 && (full || must) && shards.last().is_some_and(|s| !s.is_empty()) {
            shards.push(Vec::new());
        }
        if let Some(shard) = shards.last_mut() {
            shard.push(weight.tensor.clone());
        }
        before += u128::from(weight.tensor.meta.bytes());
    }
    shards
}

/// The path of a shard: `model.safetensors` in 3 shards is `model-00001-of-00003.safetensors` and
/// so on.
fn shard_path(output: &Path, number: usize, count: usize) -> Result<PathBuf> {
    if count == 1 {
        return Ok(output.to_owned());
    }
    let stem = output.file_stem().with_context(|| format!("{} is not a file name", output.display()))?;
    Ok(output.with_file_name(format!(
        "{}-{:05}-of-{count:05}.safetensors",
        stem.to_string_lossy(),
        number + 1
    )))
}

fn write_index(index: &Target, files: &[NewFile]) -> Result<()> {
    let mut map = BTreeMap::new();
    for file in files {
        let name = file.path().file_name().unwrap_or_default().to_string_lossy();
        map.extend(file.tensors.iter().map(|tensor| (tensor.name.as_str(), name.clone())));
    }
    let total: u64 = files.iter().map(NewFile::tensor_bytes).sum();
    let document = json!({"metadata": {"total_size": total}, "weight_map": map});
    index.write(format!("{document:#}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_hold_everything_once_and_are_never_empty() {
        let weights = arch::qwen_image_controlnet(3, 32, 8).unwrap();
        for count in 1..=weights.len() {
            let shards = shards(&weights, count);
            assert_eq!(shards.len(), count);
            assert!(shards.iter().all(|s| !s.is_empty()));
            let names: Vec<&str> = shards.iter().flatten().map(|t| t.name.as_str()).collect();
            assert!(names.iter().eq(weights.iter().map(|w| &w.tensor.name)), "{count}");
        }
    }

    #[test]
    fn names_of_shards() {
        let path = |i, n| shard_path(Path::new("d/m.safetensors"), i, n).unwrap();
        assert_eq!(path(0, 1), Path::new("d/m.safetensors"));
        assert_eq!(path(2, 3), Path::new("d/m-00003-of-00003.safetensors"));
    }
}
