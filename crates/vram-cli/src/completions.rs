//! `vram completions` and `vram man`: shell completions and manual pages, made from the one
//! definition of all flags.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print a script that completes commands and flags in a shell
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram completions bash > ~/.local/share/bash-completion/completions/vram
  vram completions zsh > ~/.zfunc/_vram
  vram completions fish > ~/.config/fish/completions/vram.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Print the manual page of this command or of a subcommand
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  vram man | man -l -
  vram man forward > ~/.local/share/man/man1/vram-forward.1")]
pub(crate) struct Man {
    /// The subcommand; without it, the page of vram itself
    #[arg(value_name = "COMMAND")]
    subcommand: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Args::command(), "vram", &mut script);
    print(&script)
}

pub(crate) fn man(args: &Man) -> Result<()> {
    let mut command = crate::Args::command();
    // Gives the subcommands the flags of every command.
    command.build();
    let command = match &args.subcommand {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).with_context(|| {
                let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
                format!("there is no subcommand {name:?}; there are {}", names.join(", "))
            })?;
            // Links of a page have the form vram-forward(1).
            let name: &'static str = Box::leak(format!("vram-{name}").into_boxed_str());
            found.clone().name(name)
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    print(&page)
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    // Not wrapped, so that a closed pipe is recognised as one.
    Ok(out.write_all(bytes).and_then(|()| out.flush())?)
}
