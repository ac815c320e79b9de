//! What goes to stderr: errors, notes, colours and logs, as the global flags ask for.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ColorChoice;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Whether `--quiet` was given.
static QUIET: AtomicBool = AtomicBool::new(false);
/// Whether errors are coloured.
static COLOURED: AtomicBool = AtomicBool::new(false);

/// Settings of every command.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Global {
    /// Print one JSON document to stdout
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
    /// Log what the engine does to stderr; twice logs everything. RUST_LOG sets the same in detail
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = HEADING)]
    pub(crate) verbose: u8,
    /// Print nothing to stderr except errors: no progress bar, no notes
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = HEADING)]
    pub(crate) quiet: bool,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN", help_heading = HEADING)]
    pub(crate) color: ColorChoice,
}

/// The heading of these flags in the help.
const HEADING: &str = "Output";

impl Global {
    /// Applies the settings to this process.
    pub(crate) fn apply(&self) {
        QUIET.store(self.quiet, Ordering::Relaxed);
        let level = match self.verbose {
            0 => None,
            1 => Some(LevelFilter::DEBUG),
            _ => Some(LevelFilter::TRACE),
        };
        let asked = std::env::var("RUST_LOG").unwrap_or_default();
        let wanted = match (level, asked.parse::<Targets>()) {
            (Some(level), _) => Targets::new().with_target("vram", level),
            (None, Ok(targets)) if !asked.is_empty() => targets,
            (None, Ok(_)) => return,
            (None, Err(e)) => return note(format_args!("RUST_LOG={asked} is ignored: {e}")),
        };
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false).without_time();
        // There is no other subscriber in this process.
        let _ = tracing_subscriber::registry().with(lines.with_filter(wanted)).try_init();
    }
}

/// When colours are wanted, as far as the words of the command line tell before they are parsed.
pub(crate) fn color() -> ColorChoice {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let joined = words.iter().find_map(|word| word.strip_prefix("--color="));
    let apart = words.windows(2).find(|pair| pair[0] == "--color").map(|pair| &*pair[1]);
    let choice = match joined.or(apart) {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    };
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_capable = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let is_coloured = match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_capable && !is_set("NO_COLOR"),
    };
    COLOURED.store(is_coloured, Ordering::Relaxed);
    choice
}

/// Whether to show progress: stderr is a terminal, and there is no `--quiet`.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal() && !QUIET.load(Ordering::Relaxed)
}

/// Says something that is neither a result nor an error.
pub(crate) fn note(text: impl Display) {
    if !QUIET.load(Ordering::Relaxed) {
        eprintln!("{text}");
    }
}

/// Reports an error in the form of clap's.
pub(crate) fn report(error: &anyhow::Error) {
    let label = if COLOURED.load(Ordering::Relaxed) { "\x1b[1m\x1b[31merror:\x1b[0m" } else { "error:" };
    eprintln!("{label} {}", said(error));
}

/// The error and its causes on one line, without repetition; then the lines of a text that one of
/// them points into.
pub(crate) fn said(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut pointed = String::new();
    for cause in error.chain().map(|cause| without_number(cause.to_string())) {
        let (quoted, mut words): (Vec<&str>, Vec<&str>) = cause.lines().partition(|line| is_quoted(line));
        if !quoted.is_empty() {
            pointed = quoted.iter().map(|line| format!("\n{line}")).collect();
            // What is wrong, without where, if the error above has said where.
            let said = words.iter().skip(1).map(|word| word.trim()).collect::<Vec<_>>().join(", ");
            if !said.is_empty() && text.ends_with(&said) {
                words.clear();
            }
        }
        let separator = if quoted.is_empty() { " " } else { ": " };
        let words = words.iter().map(|word| word.trim()).collect::<Vec<_>>().join(separator);
        if text.ends_with(&words) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&words);
    }
    text + &pointed
}

/// A text without the number of the system's error at its end, which repeats its words.
fn without_number(mut text: String) -> String {
    if text.ends_with(')')
        && let Some(at) = text.rfind(" (os error ")
    {
        text.truncate(at);
    }
    text
}

/// Whether a line shows a text, as in `3 | splt = {}` and `  | ^^^^`.
fn is_quoted(line: &str) -> bool {
    line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_not_repeated() {
        let error = anyhow::anyhow!("disk on fire").context("a: disk on fire").context("reading");
        assert_eq!(said(&error), "reading: a: disk on fire");
        let error = anyhow::anyhow!("No such file (os error 2)").context("a: No such file");
        assert_eq!(said(&error), "a: No such file");
    }

    #[test]
    fn a_place_in_a_text_is_pointed_at_once() {
        let toml =
            "TOML parse error at line 3, column 1\n  |\n3 | splt = {}\n  | ^^^^\nunknown variant `splt`\n";
        let pointed = "\n  |\n3 | splt = {}\n  | ^^^^";
        let error = anyhow::anyhow!(toml).context("rules.toml: line 3: unknown variant `splt`");
        assert_eq!(said(&error), format!("rules.toml: line 3: unknown variant `splt`{pointed}"));
        let error = anyhow::anyhow!("profile \"x\": {toml}");
        let expected = "profile \"x\": TOML parse error at line 3, column 1: unknown variant `splt`";
        assert_eq!(said(&error), format!("{expected}{pointed}"));
    }
}
