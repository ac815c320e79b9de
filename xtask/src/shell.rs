//! Runs other programs in the workspace root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // xtask/ is directly in the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The metadata of a workspace, with `Cargo.lock`. `dependencies` decides whether external
/// packages are listed.
pub(crate) fn metadata(manifest: &Path, dependencies: bool) -> Result<cargo_metadata::Metadata> {
    let mut command = cargo_metadata::MetadataCommand::new();
    command.manifest_path(manifest);
    if !dependencies {
        command.no_deps();
    }
    command.exec().with_context(|| format!("cargo metadata of {}", manifest.display()))
}

/// Prints the command and runs it with our own stdin, stdout and stderr.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed with {status}", shown(command));
    }
    Ok(())
}

/// Runs the command and returns its stdout; its stderr goes to ours.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    eprintln!("$ {}", shown(command));
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed with {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {}", shown(command)))
}

/// The command line as a user would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for arg in command.get_args() {
        let arg = arg.to_string_lossy();
        let plain = !arg.is_empty() && !arg.contains(|c: char| c.is_whitespace() || c == '"');
        text.push(' ');
        text.push_str(&if plain { arg.into_owned() } else { format!("{arg:?}") });
    }
    text
}
