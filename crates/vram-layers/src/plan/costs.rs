//! Costs of moving and computing: assumed before the first pass, measured in it, or declared for a device
//! that is not present.

use serde::{Deserialize, Serialize};

/// A link between two tiers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Bytes per second of long transfers.
    pub bytes_per_second: f64,
    /// Fixed seconds of each transfer.
    #[serde(default)]
    pub latency_seconds: f64,
}

impl Link {
    /// Nanoseconds of a transfer in `pieces` pieces.
    pub(crate) fn nanos(&self, bytes: u64, pieces: u64) -> u64 {
        nanos(bytes as f64 / self.bytes_per_second.max(1.0) + pieces as f64 * self.latency_seconds)
    }
}

/// Whole nanoseconds of a time in seconds; negative and undefined times are 0.
pub(crate) fn nanos(seconds: f64) -> u64 {
    // Saturates: `as` is defined for every f64.
    (seconds * 1e9).round() as u64
}

/// The costs that a plan is based on. Wrong costs make a pass slower, never wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// From disk to host memory.
    pub disk: Link,
    /// From host memory to the device; ignored if they are the same memory.
    pub bus: Link,
    /// Seconds of each layer's kernels in a pass, by [`LayerId`](crate::LayerId).
    pub compute_seconds: Vec<f64>,
    /// Seconds of overhead for each use of a unit, besides its kernels.
    pub unit_seconds: f64,
}

/// The work of a layer each time it is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerWork {
    /// Bytes of weights.
    pub bytes: u64,
    /// Floating-point operations.
    pub flops: u64,
}

impl Costs {
    /// What is assumed before anything is measured: a disk of 2 GB/s, a bus of 12 GB/s, and kernels that read
    /// their weights from memory at 10 GB/s.
    pub fn assumed(layer_bytes: impl IntoIterator<Item = u64>) -> Costs {
        Costs {
            disk: Link { bytes_per_second: 2e9, latency_seconds: 50e-6 },
            bus: Link { bytes_per_second: 12e9, latency_seconds: 10e-6 },
            compute_seconds: layer_bytes.into_iter().map(|bytes| bytes as f64 / 10e9).collect(),
            unit_seconds: 20e-6,
        }
    }
}
