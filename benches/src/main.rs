//! Measured rows. Each subcommand measures a claim together with its limit or another program, in
//! the same run.
//!
//! Every row prints a table of medians and spreads, and writes its samples to
//! `target/bench/ROW.json`.

mod ceilings;
mod decode;
mod extract;
mod fio;
mod harness;
mod machine;
mod memory;
mod model;
mod peers;
mod random;
mod schedule;
mod storage;
mod torch;
#[cfg(feature = "wgpu")]
mod upload;
mod whole;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "vram-benches", about)]
struct Args {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    row: Row,
}

/// Options of every row.
#[derive(Debug, clap::Args)]
struct Options {
    /// Three rounds and small sizes; only checks that a row runs
    #[arg(long, global = true)]
    quick: bool,
    /// How many times to measure each subject; defaults to 7, or to 3 with --quick
    #[arg(long, global = true, value_name = "N")]
    rounds: Option<NonZeroUsize>,
    /// Folder for the JSON files
    #[arg(long, global = true, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

impl Options {
    /// How many times to measure each subject.
    fn rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 3 } else { 7 }, NonZeroUsize::get)
    }
}

#[derive(Debug, Subcommand)]
enum Row {
    /// Run every row
    All,
    /// Measure the limits of the machine: direct reads, memory copies, memory reads
    Ceilings(ceilings::Args),
    /// Open a file with 20,000 tensors
    Header,
    /// Open the cached 2.27 GB checkpoint, as one file and as 40, and read one tensor
    OneTensor(model::Args),
    /// Read all of that checkpoint, not cached
    WholeCold(model::Args),
    /// Read all of that checkpoint from the page cache
    WholeCached(model::Args),
    /// Read 1,000 scattered tensors of a file that is not cached
    Random,
    /// Read one tensor of a PyTorch file of 104 MB: memory and time
    TorchZip,
    /// Run `vram extract` of that checkpoint to fp8: memory and time
    ExtractFp8(model::Args),
    /// Read one tensor and exit; without arguments exit at once. For rows that measure a process
    #[command(hide = true)]
    ReadOne(torch::Child),
    /// Build that model with and without its weights
    SkipInit(model::Args),
    /// Peak memory of `vram forward` under a budget of 128 MiB
    Memory(model::Args),
    /// The fully resident pass of the 2.27 GB ControlNet
    Resident(model::Args),
    /// The same model streamed from the page cache, with reads and through a memory map
    StreamingCached(model::Args),
    /// The same model streamed from a cold file
    StreamingCold(model::Args),
    /// The same model under several budgets, each compared with its bound
    Schedule(model::Args),
    /// What the engine adds to the kernels of a resident pass
    Overhead,
    /// What the engine adds to the kernels of a decoder's step of one token
    DecodeStep,
    /// Upload 256 MiB to the first adapter, with staging and with wgpu's own functions
    Upload,
}

fn run(args: Args) -> anyhow::Result<()> {
    match args.row {
        Row::All => {
            ceilings::run(&args.options, &ceilings::Args::default())?;
            let model = model::Args::default();
            storage::header(&args.options)?;
            storage::one_tensor(&args.options, &model)?;
            whole::cold(&args.options, &model)?;
            whole::cached(&args.options, &model)?;
            random::run(&args.options)?;
            torch::run(&args.options)?;
            extract::run(&args.options, &model)?;
            storage::skip(&args.options, &model)?;
            memory::run(&args.options, &model)?;
            model::resident(&args.options, &model)?;
            model::streaming_cached(&args.options, &model)?;
            model::streaming_cold(&args.options, &model)?;
            schedule::overhead(&args.options)?;
            decode::step(&args.options)?;
            schedule::real(&args.options, &model)?;
            upload(&args.options)
        }
        Row::Ceilings(row) => ceilings::run(&args.options, &row),
        Row::Header => storage::header(&args.options),
        Row::WholeCold(row) => whole::cold(&args.options, &row),
        Row::WholeCached(row) => whole::cached(&args.options, &row),
        Row::Random => random::run(&args.options),
        Row::TorchZip => torch::run(&args.options),
        Row::ExtractFp8(row) => extract::run(&args.options, &row),
        Row::ReadOne(child) => torch::child(&child),
        Row::OneTensor(row) => storage::one_tensor(&args.options, &row),
        Row::SkipInit(row) => storage::skip(&args.options, &row),
        Row::Memory(row) => memory::run(&args.options, &row),
        Row::Resident(row) => model::resident(&args.options, &row),
        Row::StreamingCached(row) => model::streaming_cached(&args.options, &row),
        Row::StreamingCold(row) => model::streaming_cold(&args.options, &row),
        Row::Schedule(row) => schedule::real(&args.options, &row),
        Row::Overhead => schedule::overhead(&args.options),
        Row::DecodeStep => decode::step(&args.options),
        Row::Upload => upload(&args.options),
    }
}

#[cfg(feature = "wgpu")]
fn upload(options: &Options) -> anyhow::Result<()> {
    upload::run(options)
}

#[cfg(not(feature = "wgpu"))]
fn upload(_: &Options) -> anyhow::Result<()> {
    println!("\nupload\nskipped: built without the feature wgpu");
    Ok(())
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
