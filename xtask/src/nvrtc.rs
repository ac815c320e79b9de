//! `cargo xtask nvrtc`: compiles every CUDA kernel with NVIDIA's own compiler, which needs no
//! card.

use anyhow::{Context, Result};

use crate::models::Model;
use crate::shell;

/// The compiler as a wheel, in the version of docs/measured/nvrtc.md.
const NVRTC: Model = Model {
    name: "nvrtc",
    spec: "nvidia-cuda-nvrtc-cu12==12.9.86",
    wheel_sha256: "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
    folder: "nvidia/cuda_nvrtc/lib",
    files: &[("libnvrtc.so.12", None), ("libnvrtc-builtins.so.12.9", None)],
    variable: "VRAM_NVRTC",
};

/// The recorded results.
const RECORD: &str = "docs/measured/nvrtc.md";

pub(crate) fn run(record: bool) -> Result<()> {
    let folder = NVRTC.ensure()?;
    let mut paths = vec![folder];
    if let Some(before) = std::env::var_os("LD_LIBRARY_PATH") {
        paths.extend(std::env::split_paths(&before));
    }
    let paths = std::env::join_paths(paths).context("LD_LIBRARY_PATH")?;
    let mut command = shell::cargo();
    command.args(["test", "--package", "vram-device", "--features", "cuda", "--test", "nvrtc"]);
    command.args(["--", "--nocapture"]).env("LD_LIBRARY_PATH", paths);
    command.env("VRAM_NVRTC_REQUIRED", "1").env("VRAM_NVRTC_RECORD", shell::root().join(RECORD));
    if record {
        command.env("VRAM_NVRTC_WRITE", "1");
    }
    shell::run(&mut command)
}
