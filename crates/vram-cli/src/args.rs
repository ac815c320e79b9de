//! Arguments that several commands share.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use vram_stream::{Cpu, CpuOptions, Kernels};
use vram_types::{ByteSize, DType, ParseByteSizeError};

/// How the bytes of tensors are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Read {
    /// From the page cache what it holds, the rest past it where that pays
    #[default]
    Auto,
    /// Through the page cache
    Pread,
    /// Past the page cache
    Direct,
    /// Past the page cache by io_uring, if this was built with it and the system permits it; else as direct
    Uring,
    /// From a memory map; you promise that nobody changes the files meanwhile
    Mmap,
}

/// Where weights wait for their use that do not stay on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Waits {
    /// In host memory, as far as its budget allows
    Host,
    /// On disk
    Disk,
}

/// An upper limit in bytes, whatever is free, or what is free but some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// What is free on the device when the command starts.
    Auto,
    /// This much.
    Bytes(ByteSize),
    /// What is free but this much, asked of the device before each pass.
    LeaveFree(ByteSize),
}

impl FromStr for Budget {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Budget, ParseByteSizeError> {
        match text.strip_prefix("free-") {
            Some(left) => left.parse().map(Budget::LeaveFree),
            None if text == "auto" => Ok(Budget::Auto),
            None => text.parse().map(Budget::Bytes),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Auto => f.write_str("auto"),
            Budget::Bytes(size) => write!(f, "{size}"),
            Budget::LeaveFree(size) => write!(f, "free-{size}"),
        }
    }
}

/// The dtype that layers compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeDType {
    /// Single precision
    F32,
    /// The upper half of single precision
    Bf16,
    /// Half precision
    F16,
}

impl From<ComputeDType> for DType {
    fn from(dtype: ComputeDType) -> DType {
        match dtype {
            ComputeDType::F32 => DType::F32,
            ComputeDType::Bf16 => DType::BF16,
            ComputeDType::F16 => DType::F16,
        }
    }
}

/// Backends beside the CPU's.
const BACKENDS: [&str; 2] = ["cuda", "wgpu"];

/// How devices are named, with what may come behind a backend's name and a colon.
pub(crate) const DEVICES: &str = "cpu|cuda[:N|:NAME]|wgpu[:N|:NAME]";

/// A device to compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceName {
    /// The processor, with host memory as its memory.
    Cpu,
    /// Another backend's, named as the library does: whether it is here is known when it is opened.
    Other(String),
}

impl DeviceName {
    /// The device. `threads` are for the CPU.
    pub(crate) fn open(&self, threads: Option<usize>) -> Result<Arc<dyn Kernels>> {
        match self {
            DeviceName::Cpu => Ok(Arc::new(Cpu::new(CpuOptions { threads, ..CpuOptions::default() })?)),
            DeviceName::Other(name) => {
                ensure!(
                    threads.is_none(),
                    "--threads is how many the cpu computes with, and the device is {name}"
                );
                Ok(vram_stream::device::open(name)?)
            }
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceName, String> {
        let backend = text.split_once(':').map_or(text, |(backend, _)| backend);
        if text == "cpu" {
            Ok(DeviceName::Cpu)
        } else if BACKENDS.contains(&backend) {
            Ok(DeviceName::Other(text.to_owned()))
        } else {
            Err(format!("is none of {DEVICES}; `vram devices` says what is here"))
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceName::Cpu => "cpu",
            DeviceName::Other(name) => name,
        })
    }
}

/// What every command that runs a network takes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Engine {
    /// Most device memory that weights and activations may take, as 512MiB or 6GiB; auto is what is free now, control
    /// groups respected; free-1GiB leaves so much of it free, before each pass anew
    #[arg(long, value_name = "SIZE|auto|free-SIZE", default_value_t = Budget::Auto)]
    pub(crate) budget: Budget,
    /// Most host memory for staging what is on its way to the device, and for weights that wait there; the CPU reads in place
    /// and needs little
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub(crate) host_budget: ByteSize,
    /// Where weights wait that do not stay on the device; host is for devices with memory of their own, and keeps them between
    /// passes as far as --host-budget allows
    #[arg(long, value_enum, default_value_t = Waits::Disk)]
    pub(crate) from: Waits,
    /// Apply the rules of this file to the checkpoint first, as extract and inspect do
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) convert: Option<std::path::PathBuf>,
    /// How weights are read from disk
    #[arg(long, env = "VRAM_READ", value_enum, default_value_t)]
    pub(crate) read: Read,
    /// What to compute in; the checkpoint's own dtype if not given
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<ComputeDType>,
    /// Threads that the cpu computes with; all of them if not given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) threads: Option<usize>,
    /// How often to run the same pass
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one)]
    pub(crate) passes: usize,
    /// Write a report of the budget and of every pass as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<std::path::PathBuf>,
    /// Write what happened when as a trace to this file, which Perfetto and chrome://tracing open
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<std::path::PathBuf>,
    /// Where to compute: on the processor, or on a card of CUDA or an adapter of wgpu by its place or a part of its name, as
    /// `vram devices` has them
    #[arg(long, value_name = DEVICES, default_value_t = DeviceName::Cpu)]
    pub(crate) device: DeviceName,
}

/// Parses a number that may not be zero.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err("is no whole number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for name in ["cpu", "cuda", "cuda:1", "wgpu", "wgpu:1", "wgpu:RTX 3090"] {
            assert_eq!(name.parse().map(|device: DeviceName| device.to_string()), Ok(name.to_owned()));
        }
        for wrong in ["", "toaster", "cpu:1", "wgpux"] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn budgets() {
        assert_eq!("auto".parse(), Ok(Budget::Auto));
        assert_eq!("6GiB".parse(), Ok(Budget::Bytes(ByteSize::gib(6))));
        assert_eq!("free-1GiB".parse(), Ok(Budget::LeaveFree(ByteSize::gib(1))));
        for wrong in ["lots", "free", "free-", "free-lots", "free 1GiB"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }
}
