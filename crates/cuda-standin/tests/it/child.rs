//! Runs a test again in its own process, to see how that process ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FOLDER: &str = "CUDA_STANDIN_CHILD";

/// In the child, the folder that it was given.
pub(crate) fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs one test in its own process, which finds a [`folder`].
pub(crate) fn run(test: &str, folder: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(FOLDER, folder).envs(variables.iter().copied());
    command.output().unwrap()
}
