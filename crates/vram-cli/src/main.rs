//! The `vram` command: looks into checkpoints, copies and makes them, and runs networks larger than the memory of the
//! device that must run them.
//!
//! Every subcommand takes `--json` for one JSON document on stdout and nothing else there; progress and errors go to
//! stderr. The exit code is 0 when it is done, 1 when it failed, 2 for a wrong usage.

mod arch;
mod args;
mod checkpoint;
mod devices;
mod diff;
mod embed;
mod engine;
mod extract;
mod forward;
mod inspect;
mod output;
mod plan;
mod progress;
mod report;
mod synth;
mod watch;
mod writer;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "vram", version, about = "Neural networks larger than device memory", long_about = None)]
struct Args {
    /// Print one JSON document on stdout
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Extract(extract::Args),
    Diff(diff::Args),
    Synth(synth::Args),
    Devices(devices::Args),
    Plan(Box<plan::Args>),
    Forward(Box<forward::Args>),
    Embed(Box<embed::Args>),
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        // Its exit code is its answer.
        Command::Diff(command) => return diff::run(command, args.json),
        Command::Inspect(command) => inspect::run(command, args.json),
        Command::Extract(command) => extract::run(command, args.json),
        Command::Synth(command) => synth::run(command, args.json),
        Command::Devices(command) => devices::run(command, args.json),
        Command::Plan(command) => plan::run(command, args.json),
        Command::Forward(command) => forward::run(command, args.json),
        Command::Embed(command) => embed::run(command, args.json),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whoever read our output has seen enough, as in `vram inspect ... | head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// The error and its causes, each said once.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().replace('\n', " ");
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_cause_that_is_already_said_is_not_said_again() {
        let error = anyhow::anyhow!("disk on fire").context("a: disk on fire").context("reading");
        assert_eq!(one_line(&error), "reading: a: disk on fire");
    }
}
