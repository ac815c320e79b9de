//! The commands of this workspace. `cargo xtask --help` lists them; CI runs the same ones.

mod bench;
mod ci;
mod demo;
mod gpu_check;
mod models;
mod nvrtc;
mod shell;
mod standin;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, disable_help_subcommand = true)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run a real sentence encoder twice, fully resident and at a quarter of its weights, and compare
    Demo {
        /// A folder with model.safetensors, config.json and tokenizer.json, instead of downloading one
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
    },
    /// Run every test; arguments go to `cargo test --workspace`
    Test {
        /// Passed on, as in `cargo xtask test -p vram-types casts`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// What a change must pass besides the tests: format, lints, tidy, docs, packaging, use from outside
    Ci,
    /// Hold the code to ARCHITECTURE.md: dependency edges, unsafe files, trait sizes, file lengths, manifests
    Tidy,
    /// Build the stand-in for NVIDIA's libraries and print the folder for LD_LIBRARY_PATH
    Standin,
    /// Download the real models that tests and the demo use, and check them
    Models {
        /// Which ones; all if none is named
        names: Vec<String>,
    },
    /// Build one binary that checks a card: conformance, golden models, budgets, copies beside kernels; it writes one JSON file
    GpuCheck {
        /// Run it here, with these arguments, as in `cargo xtask gpu-check --run -- --device cuda:1`
        #[arg(long)]
        run: bool,
        /// Passed on
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Compile every CUDA kernel for every architecture with NVIDIA's compiler, which is fetched, and compare with docs/measured/nvrtc.md
    Nvrtc {
        /// Write docs/measured/nvrtc.md anew
        #[arg(long)]
        record: bool,
    },
    /// Measure: the criterion suites, then the rows of benches/
    Bench {
        /// Fewer rounds and smaller files; for finding out whether it runs, not for figures
        #[arg(long)]
        quick: bool,
        /// Only this crate's criterion suites (or `vram-benches` for the measured rows)
        #[arg(short, long, value_name = "CRATE")]
        package: Option<String>,
    },
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Demo { model } => demo::run(model.as_deref()),
        Task::Test { args } => ci::test(&args),
        Task::Ci => ci::run(),
        Task::Tidy => tidy::run(),
        Task::Standin => {
            println!("{}", standin::build()?.display());
            Ok(())
        }
        Task::Models { names } => models::run(&names),
        Task::GpuCheck { run, args } => gpu_check::run(run, &args),
        Task::Nvrtc { record } => nvrtc::run(record),
        Task::Bench { quick, package } => bench::run(quick, package.as_deref()),
    }
}

fn main() -> ExitCode {
    match run(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
