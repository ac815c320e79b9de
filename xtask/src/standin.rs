//! `cargo xtask standin`: builds the stand-in for NVIDIA's libraries and links it under the names
//! that the loader looks for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell;

/// The library names of the driver, NVRTC and cublasLt. Links to the same file are one library in
/// a process.
const NAMES: [&str; 10] = [
    "libcuda.so",
    "libcuda.so.1",
    "libnvrtc.so",
    "libnvrtc.so.12",
    "libnvrtc.so.13",
    "libcublas.so",
    "libcublas.so.12",
    "libcublasLt.so",
    "libcublasLt.so.12",
    "libcublasLt.so.13",
];

/// Builds the stand-in and returns the folder for `LD_LIBRARY_PATH`.
pub(crate) fn build() -> Result<PathBuf> {
    shell::run(shell::cargo().args(["build", "--quiet", "--package", "cuda-standin"]))?;
    let metadata = shell::metadata(&shell::root().join("Cargo.toml"), false)?;
    let target = metadata.target_directory.as_std_path();
    let folder = target.join("cuda-standin");
    lay_out(&target.join("debug/libcuda_standin.so"), &folder)?;
    Ok(folder)
}

/// Adds the stand-in to a command's environment: the loader finds it first, it caches its kernels
/// beside itself, and a process that misuses it or leaks fails.
pub(crate) fn with(command: &mut std::process::Command) -> Result<()> {
    let folder = build()?;
    let mut paths = vec![folder.clone()];
    paths.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(paths).context("LD_LIBRARY_PATH")?);
    command.env("STANDIN_CACHE", folder.join("kernels"));
    command.env("STANDIN_STRICT", "1");
    Ok(())
}

/// Copies the library into the folder, so that the next build does not change it while a process
/// has it open, and links every name to the copy.
fn lay_out(library: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let (copy, partial) = (folder.join("libcuda_standin.so"), folder.join("libcuda_standin.so.new"));
    fs::copy(library, &partial).with_context(|| library.display().to_string())?;
    fs::rename(&partial, &copy).with_context(|| copy.display().to_string())?;
    for name in NAMES {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(&link).with_context(|| link.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn symlink(link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink("libcuda_standin.so", link)
}

#[cfg(not(unix))]
fn symlink(_: &Path) -> std::io::Result<()> {
    Err(std::io::Error::other("the stand-in only works on systems with dlopen"))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_the_same_file_and_a_new_one_replaces_it() {
        let dir = tempfile::tempdir().unwrap();
        let (library, folder) = (dir.path().join("built.so"), dir.path().join("links"));
        for text in ["first", "second"] {
            fs::write(&library, text).unwrap();
            lay_out(&library, &folder).unwrap();
            for name in NAMES {
                assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), text, "{name}");
            }
        }
    }
}
