//! Arguments that several commands share.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use serde::Serialize;
use vram_stream::device::ops;
use vram_stream::{Cpu, CpuOptions, Kernels};
use vram_types::{ByteSize, DType};

/// How tensors are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Read {
    /// Cached data from the page cache; the rest bypasses it if that is faster
    #[default]
    Auto,
    /// Through the page cache
    Pread,
    /// Bypass the page cache
    Direct,
    /// Bypass the page cache with io_uring, if this build and the system support it; otherwise
    /// like direct
    Uring,
    /// From a memory map; you promise that nobody changes the files while the command runs
    Mmap,
}

/// Where weights are kept that do not fit on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Waits {
    /// In host memory, as far as the host budget allows
    Host,
    /// On disk
    Disk,
}

/// A limit for device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// The memory that is free on the device when the command starts.
    Auto,
    /// A size.
    Bytes(ByteSize),
    /// The free memory less this size, checked before each pass.
    LeaveFree(ByteSize),
    /// A share of the memory that is free when the command starts, in percent.
    Percent(u8),
}

impl Budget {
    /// The bytes of this budget where so many are free.
    pub(crate) fn of(self, free: u64) -> u64 {
        match self {
            Budget::Auto => free,
            Budget::Bytes(size) => size.bytes(),
            Budget::LeaveFree(left) => free.saturating_sub(left.bytes()),
            Budget::Percent(percent) => (u128::from(free) * u128::from(percent) / 100) as u64,
        }
    }
}

impl FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Budget, String> {
        let size =
            |text: &str| text.parse::<ByteSize>().map_err(|e| format!("{e}, or as auto, 50% or free-1GiB"));
        if let Some(left) = text.strip_prefix("free-") {
            return size(left).map(Budget::LeaveFree);
        }
        if let Some(number) = text.strip_suffix('%') {
            let percent = number.trim().parse().ok().filter(|percent| (1..=100).contains(percent));
            return percent
                .map(Budget::Percent)
                .ok_or_else(|| format!("{text:?} is no share of the free memory; write 1% to 100%"));
        }
        if text == "auto" { Ok(Budget::Auto) } else { size(text).map(Budget::Bytes) }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Auto => f.write_str("auto"),
            Budget::Bytes(size) => write!(f, "{size}"),
            Budget::LeaveFree(size) => write!(f, "free-{size}"),
            Budget::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// The dtype that layers compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeDType {
    /// Single precision
    F32,
    /// bfloat16: the upper half of single precision
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

/// How products with quantised blocks read their inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Activations {
    /// As they are, in the compute dtype
    #[default]
    Exact,
    /// Rounded to 8 bits, with a scale for each 32 of them
    Q8,
}

impl From<Activations> for ops::Activations {
    fn from(activations: Activations) -> ops::Activations {
        match activations {
            Activations::Exact => ops::Activations::Exact,
            Activations::Q8 => ops::Activations::Q8,
        }
    }
}

/// The backends other than the CPU.
const BACKENDS: [&str; 2] = ["cuda", "wgpu"];

/// The syntax of device names.
pub(crate) const DEVICES: &str = "cpu|cuda[:N|:NAME]|wgpu[:N|:NAME]";

/// A device to compute on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeviceName {
    /// The processor, with host memory as its memory.
    Cpu,
    /// A device of another backend. Its name is only checked when it is opened.
    Other(String),
}

impl DeviceName {
    /// Opens the device. `threads` only applies to the CPU.
    pub(crate) fn open(&self, threads: Option<usize>) -> Result<Arc<dyn Kernels>> {
        match self {
            DeviceName::Cpu => Ok(Arc::new(Cpu::new(CpuOptions { threads, ..CpuOptions::default() })?)),
            DeviceName::Other(name) => {
                ensure!(threads.is_none(), "--threads is only for the cpu, and the device is {name}");
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
            Err(format!("must be one of {DEVICES}; `vram devices` lists what is available"))
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

/// The syntax of budgets.
pub(crate) const BUDGET: &str = "SIZE|PERCENT%|auto|free-SIZE";

/// Headings in the help.
pub(crate) const MEMORY: &str = "Memory (1KiB = 1Ki = 1K = 1024 bytes, 1KB = 1000 bytes)";
pub(crate) const COMPUTING: &str = "Computing";
pub(crate) const REPORTS: &str = "Reports";

/// The environment variable for `--read`.
const READ: &str = "VRAM_READ";

/// Checks the values of environment variables, in every command, whether it uses them or not.
pub(crate) fn check_environment() -> Result<()> {
    let Some(value) = std::env::var_os(READ) else { return Ok(()) };
    let names: Vec<String> = Read::value_variants()
        .iter()
        .filter_map(|read| Some(read.to_possible_value()?.get_name().to_owned()))
        .collect();
    let is_known = value.to_str().is_some_and(|value| names.iter().any(|name| name == value));
    ensure!(
        is_known,
        "the environment variable {READ} is {value:?}, but must be {}; it is what --read defaults to",
        crate::output::list(&names, "or")
    );
    Ok(())
}

/// The arguments of every command that runs a network.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Engine {
    /// Limit for device memory, weights and activations included, such as 512MiB or 6GiB; auto
    /// takes what is free now, within control groups; 50% takes half of that; free-1GiB leaves
    /// 1 GiB free, checked before each pass
    #[arg(long, value_name = BUDGET, default_value_t = Budget::Auto, help_heading = MEMORY)]
    pub(crate) budget: Budget,
    /// Limit for host memory: staging buffers, and weights that --from host keeps there; the CPU
    /// reads in place and needs little
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = MEMORY)]
    pub(crate) host_budget: ByteSize,
    /// Where to keep weights that do not fit on the device; host is for devices with their own
    /// memory and keeps weights between passes as far as --host-budget allows
    #[arg(long, value_enum, default_value_t = Waits::Disk, help_heading = MEMORY)]
    pub(crate) from: Waits,
    /// Apply the conversion rules in this file first, as extract and inspect do
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) convert: Option<std::path::PathBuf>,
    /// How to read weights from disk
    #[arg(long, env = "VRAM_READ", value_enum, default_value_t)]
    pub(crate) read: Read,
    /// Dtype to compute in; defaults to the dtype of the checkpoint
    #[arg(long, value_enum, help_heading = COMPUTING)]
    pub(crate) dtype: Option<ComputeDType>,
    /// How products read their inputs where weights are in quantised blocks; q8 rounds them to 8
    /// bits, which is several times as fast and changes results by about half a percent
    #[arg(long, value_enum, default_value_t, help_heading = COMPUTING)]
    pub(crate) activations: Activations,
    /// Number of threads that the cpu computes with; defaults to all
    #[arg(long, value_name = "N", value_parser = at_least_one, help_heading = COMPUTING)]
    pub(crate) threads: Option<usize>,
    /// How many times to run the pass
    #[arg(long, value_name = "N", default_value = "1", value_parser = at_least_one, help_heading = COMPUTING)]
    pub(crate) passes: usize,
    /// Write a JSON report of the budget and of every pass to this file
    #[arg(long, value_name = "FILE", help_heading = REPORTS)]
    pub(crate) report: Option<std::path::PathBuf>,
    /// Write a trace to this file, for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE", help_heading = REPORTS)]
    pub(crate) trace: Option<std::path::PathBuf>,
    /// Replace existing files; a file that is also an input is never replaced
    #[arg(long)]
    pub(crate) force: bool,
    /// Device to compute on: the cpu, or a cuda or wgpu device by number or part of its name, as
    /// listed by `vram devices`
    #[arg(long, value_name = DEVICES, default_value_t = DeviceName::Cpu, help_heading = COMPUTING)]
    pub(crate) device: DeviceName,
}

/// Parses a number of at least 1.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err("is not a whole number".to_owned()),
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
        assert_eq!("50%".parse(), Ok(Budget::Percent(50)));
        assert_eq!(Budget::Percent(50).of(101), 50);
        assert_eq!(Budget::Percent(100).of(u64::MAX), u64::MAX);
        assert_eq!(Budget::LeaveFree(ByteSize(3)).of(2), 0);
        for wrong in ["lots", "free", "free-", "free-lots", "free 1GiB", "0%", "101%", "%", "-5%", "1.5%"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }
}
