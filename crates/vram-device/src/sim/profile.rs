//! Speeds of the simulated device.

use std::time::Duration;

use crate::DeviceError;

/// Sizes and speeds of a simulated device. The default has round numbers for a card with 8 GiB behind PCIe 4;
/// it is no particular card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimProfile {
    /// Memory of the device in bytes; beyond it, allocations give [`DeviceError::OutOfMemory`].
    pub memory_bytes: u64,
    /// Bytes per second of copies, either way.
    pub copy_bytes_per_second: f64,
    /// Fixed time of each copy.
    pub copy_latency: Duration,
    /// Floating-point operations per second of kernels.
    pub flops_per_second: f64,
    /// Bytes per second that kernels read and write.
    pub memory_bytes_per_second: f64,
    /// Fixed time of each kernel.
    pub kernel_latency: Duration,
}

impl Default for SimProfile {
    fn default() -> SimProfile {
        SimProfile {
            memory_bytes: 8 << 30,
            copy_bytes_per_second: 25e9,
            copy_latency: Duration::from_micros(10),
            flops_per_second: 20e12,
            memory_bytes_per_second: 400e9,
            kernel_latency: Duration::from_micros(5),
        }
    }
}

/// Cost of a kernel in virtual time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cost {
    /// The longer of the time for this many floating-point operations and for the bytes of all operands, by
    /// the [`SimProfile`].
    Flops(f64),
    /// A fixed time, whatever the profile says.
    Exactly(Duration),
}

impl SimProfile {
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        let speeds = [
            ("copy_bytes_per_second", self.copy_bytes_per_second),
            ("flops_per_second", self.flops_per_second),
            ("memory_bytes_per_second", self.memory_bytes_per_second),
        ];
        match speeds.into_iter().find(|(_, speed)| !speed.is_finite() || *speed <= 0.0) {
            None => Ok(()),
            Some((name, speed)) => Err(DeviceError::Unavailable {
                what: "a simulated device".into(),
                reason: format!("{name} is {speed}"),
            }),
        }
    }

    pub(super) fn copy_ns(&self, bytes: u64) -> u64 {
        nanoseconds(self.copy_latency).saturating_add(ns(bytes as f64 / self.copy_bytes_per_second))
    }

    pub(super) fn kernel_ns(&self, cost: Cost, bytes: u64) -> u64 {
        match cost {
            Cost::Exactly(time) => nanoseconds(time),
            Cost::Flops(flops) => {
                let seconds =
                    (flops / self.flops_per_second).max(bytes as f64 / self.memory_bytes_per_second);
                nanoseconds(self.kernel_latency).saturating_add(ns(seconds))
            }
        }
    }
}

/// Whole nanoseconds, saturating.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn ns(seconds: f64) -> u64 {
    // Float casts saturate.
    (seconds * 1e9).round() as u64
}
