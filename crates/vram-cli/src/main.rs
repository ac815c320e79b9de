//! The `vram` command: inspects, compares, copies and generates checkpoints, and runs networks
//! that do not fit in device memory.
//!
//! With `--json`, every subcommand prints one JSON document to stdout and nothing else. Progress,
//! notes and errors go to stderr. The exit code is 0 on success, 1 on failure, 2 for wrong usage and
//! 3 if `extract` would have to leave out tensors that cannot be read. `diff` follows its namesake: 0
//! for equal, 1 for different, 2 for trouble.

mod arch;
mod args;
mod bench_model;
mod checkpoint;
mod completions;
mod devices;
mod diff;
mod embed;
mod engine;
mod extract;
mod forward;
mod generate;
mod inputs;
mod inspect;
mod language;
mod output;
mod outputs;
mod plan;
mod progress;
mod report;
mod signals;
mod synth;
mod terminal;
mod tokenize;
mod tokens;
mod watch;
mod writer;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::error::ErrorKind as Usage;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use terminal::Global;

/// How a command ends that could not do its work.
const FAILURE: u8 = 1;
/// Wrong usage; for `diff`, all trouble.
const TROUBLE: u8 = 2;
/// A copy would lack tensors that cannot be read.
const LEFT_OUT: u8 = 3;

#[derive(Debug, Parser)]
#[command(
    name = "vram",
    version,
    long_version = env!("VRAM_VERSION"),
    about = "Runs neural networks that do not fit in device memory",
    long_about = None,
    max_term_width = 100,
    after_help = "\
Examples:
  vram inspect model.safetensors --group
  vram plan model.safetensors --arch qwen-image-controlnet --budget 256MiB
  vram forward --arch qwen-image-controlnet --weights model.safetensors \\
      --input in.safetensors -o out.safetensors --budget 256MiB

Sizes: 512MiB, 512Mi and 512M are multiples of 1024; 512MB is 512,000,000 bytes.

Exit code: 0 on success, 1 on failure, 2 for wrong usage. `vram diff` exits with 0 if the
checkpoints are equal, 1 if they differ and 2 for any trouble."
)]
struct Args {
    #[command(flatten)]
    global: Global,
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
    Generate(Box<generate::Args>),
    BenchModel(Box<bench_model::Args>),
    Tokenize(tokenize::Args),
    Completions(completions::Args),
    Man(completions::Man),
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let json = args.global.json;
    match &args.command {
        // Their exit codes say more than whether they failed.
        Command::Diff(command) => return diff::run(command, json),
        Command::Inspect(command) => return inspect::run(command, json),
        Command::Extract(command) => extract::run(command, json),
        Command::Synth(command) => synth::run(command, json),
        Command::Devices(command) => devices::run(command, json),
        Command::Plan(command) => plan::run(command, json),
        Command::Forward(command) => forward::run(command, json),
        Command::Embed(command) => embed::run(command, json),
        Command::Generate(command) => generate::run(command, json),
        Command::BenchModel(command) => bench_model::run(command, json),
        Command::Tokenize(command) => tokenize::run(command, json),
        Command::Completions(command) => completions::run(command),
        Command::Man(command) => completions::man(command),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(code) => return code,
    };
    args.global.apply();
    let heeded = signals::watch().map_err(|e| anyhow::Error::new(e).context("signals"));
    match heeded.and_then(|()| run(&args)) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<extract::LeftOut>() => {
            terminal::report(&error);
            ExitCode::from(LEFT_OUT)
        }
        Err(error) => {
            terminal::report(&error);
            let code = if matches!(args.command, Command::Diff(_)) { TROUBLE } else { FAILURE };
            ExitCode::from(code)
        }
    }
}

/// Parses the command line, or prints what is wrong with it, or the help that it asks for.
fn parse() -> Result<Args, ExitCode> {
    let matches = Args::command().color(terminal::color()).try_get_matches();
    let parsed = matches.and_then(|matches| Args::from_arg_matches(&matches));
    if let Err(error) = &parsed
        && matches!(error.kind(), Usage::DisplayHelp | Usage::DisplayVersion)
    {
        error.exit();
    }
    // Before the error of a flag whose value came from the environment, which would blame the flag.
    if let Err(error) = args::check_environment() {
        terminal::report(&error);
        return Err(ExitCode::from(TROUBLE));
    }
    parsed.map_err(|error| error.exit())
}

/// Whether the reader closed stdout early, as in `vram inspect ... | head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Args::command().debug_assert();
    }
}
