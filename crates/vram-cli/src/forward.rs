//! `vram forward`: passes of a known architecture on given inputs.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::args::Engine;

/// Architectures that can be run on tensors from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// The blockwise ControlNet of Qwen-Image; inputs `img` and `conditioning`
    QwenImageControlnet,
}

/// Run a known architecture on the tensors of a file
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What the weights are of
    #[arg(long, value_enum)]
    pub(crate) arch: Arch,
    /// The checkpoint: a file, an index or a folder
    #[arg(long, value_name = "PATH")]
    pub(crate) weights: PathBuf,
    /// The inputs, a safetensors file
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Where the outputs go
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) engine: Engine,
}
