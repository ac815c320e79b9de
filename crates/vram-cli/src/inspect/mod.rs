//! `vram inspect`: lists what is in checkpoints, from their headers alone.

mod document;
mod print;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;
use globset::GlobMatcher;
use vram_diskmap::DiskMap;
use vram_types::WeightSource;

use crate::args::Read;
use crate::checkpoint::{self, Checkpoint};
use crate::{output, terminal};
use document::{Document, Failed};

/// List the tensors of checkpoints: name, dtype, shape, bytes, file and offset; reads only headers
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram inspect model.safetensors --tensors 'blocks.0.*'
  vram inspect model/ --group
  vram inspect *.safetensors --summary
  vram inspect model.gguf --sort size")]
pub(crate) struct Args {
    /// Checkpoints: safetensors, PyTorch or GGUF files, *.index.json, or folders of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Only tensors whose name matches, such as 'blocks.0.*'; can be repeated
    #[arg(long, value_name = "GLOB", value_parser = checkpoint::pattern)]
    tensors: Vec<GlobMatcher>,
    /// Show the checkpoint after the conversion rules in this file, and what each new tensor is
    /// made from
    #[arg(long, value_name = "FILE.toml")]
    convert: Option<PathBuf>,
    /// Accept and report common defects of safetensors files: bytes that belong to no tensor,
    /// extra blanks
    #[arg(long)]
    lenient: bool,
    /// Also print metadata: __metadata__ of safetensors files, key-value pairs of GGUF files
    #[arg(long)]
    metadata: bool,
    /// Print only the totals
    #[arg(long, conflicts_with_all = ["group", "sort"])]
    summary: bool,
    /// Print one line for tensors whose names differ only in numbers, such as those of all blocks,
    /// and that have the same dtype and shape
    #[arg(long)]
    group: bool,
    /// Order of the tensors
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
}

/// An order of tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// As they lie in the files
    #[default]
    File,
    /// By name, numbers by value
    Name,
    /// Largest first
    Size,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<ExitCode> {
    let (mut checkpoints, mut failed) = (Vec::new(), Vec::new());
    for path in &args.paths {
        let options = DiskMap::options().lenient(args.lenient);
        match Checkpoint::open(options, path, Read::Auto, args.convert.as_deref()) {
            Ok(checkpoint) => checkpoints.push(checkpoint),
            Err(error) if args.paths.len() == 1 => return Err(error),
            Err(error) => {
                terminal::report(&error);
                failed.push(Failed { path: path.to_string_lossy(), error: terminal::said(&error) });
            }
        }
    }
    if checkpoints.is_empty() {
        bail!("none of the {} checkpoints can be read", args.paths.len());
    }
    let names = || checkpoints.iter().map(Checkpoint::source).flat_map(WeightSource::names);
    if !args.tensors.is_empty() && !names().any(|name| checkpoint::wanted(&args.tensors, name)) {
        let paths: Vec<String> = args.paths.iter().map(|path| path.display().to_string()).collect();
        return Err(checkpoint::none_matches(&args.tensors, &output::list(&paths, "and"), names()));
    }
    let code = if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let document = Document::new(args, &checkpoints, failed);
    if json {
        output::json(&document)?;
    } else {
        print::print(&document)?;
    }
    Ok(code)
}
