//! Measured rows: each subcommand measures one claim beside its ceiling or its peer, in the same run.
//!
//! Every row prints a table of medians and spreads and writes its samples to `target/bench/ROW.json`.

mod ceilings;
mod harness;
mod machine;

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

/// What every row takes.
#[derive(Debug, clap::Args)]
struct Options {
    /// Three rounds and small sizes: shows that a row runs, and no more than that
    #[arg(long, global = true)]
    quick: bool,
    /// Where the JSON goes
    #[arg(long, global = true, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

impl Options {
    /// How many times each subject is measured.
    fn rounds(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }
}

#[derive(Debug, Subcommand)]
enum Row {
    /// Every row
    All,
    /// What the machine can do: direct reads, memory copies, memory reads
    Ceilings(ceilings::Args),
}

fn run(args: Args) -> anyhow::Result<()> {
    match args.row {
        Row::All => ceilings::run(&args.options, &ceilings::Args::default()),
        Row::Ceilings(row) => ceilings::run(&args.options, &row),
    }
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
