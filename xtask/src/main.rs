//! Commands for working on this workspace. `cargo xtask --help` lists them; CI runs the same ones.

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
    /// Run a sentence encoder fully resident and in a quarter of its weights' size, and compare
    /// the results
    Demo {
        /// Folder with model.safetensors, config.json and tokenizer.json, to use instead of
        /// downloading one
        #[arg(long, value_name = "DIR")]
        model: Option<PathBuf>,
    },
    /// Run every test; arguments go to `cargo test --workspace`
    Test {
        /// Arguments for cargo test, as in `cargo xtask test -p vram-types casts`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run all checks other than the tests: format, lints, tidy, docs, packaging, use from outside
    Ci,
    /// Check the code against ARCHITECTURE.md: dependencies, unsafe files, trait sizes, file
    /// lengths, manifests
    Tidy,
    /// Build the stand-in for NVIDIA's libraries and print the folder for LD_LIBRARY_PATH
    Standin,
    /// Download and verify the real models that tests and the demo use
    Models {
        /// Models to download; all if none is named
        names: Vec<String>,
    },
    /// Build one binary that checks a card (conformance, golden models, budgets, overlapping
    /// copies) and writes one JSON file
    GpuCheck {
        /// Run it here with the given arguments, as in
        /// `cargo xtask gpu-check --run -- --device cuda:1`
        #[arg(long)]
        run: bool,
        /// Arguments for the binary
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Compile every CUDA kernel for every architecture with NVIDIA's compiler, which is
    /// downloaded, and compare with docs/measured/nvrtc.md
    Nvrtc {
        /// Write docs/measured/nvrtc.md
        #[arg(long)]
        record: bool,
    },
    /// Run the criterion suites, then the measured rows of benches/
    Bench {
        /// Fewer rounds and smaller files; only checks that everything runs
        #[arg(long)]
        quick: bool,
        /// Only this crate's criterion suites (`vram-benches` for the measured rows)
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
