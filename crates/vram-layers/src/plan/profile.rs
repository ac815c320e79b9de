//! Profiles of devices that are not present, from their data sheets.

use serde::{Deserialize, Serialize};
use vram_device::{Execution, Memory, Topology};
use vram_types::DType;

use crate::error::Error;
use crate::plan::costs::{Costs, LayerWork, Link};

/// The built-in profiles: names and texts.
const BUILT_IN: [(&str, &str); 4] = [
    ("rtx4090-pcie4", include_str!("../../profiles/rtx4090-pcie4.toml")),
    ("rtx3060-pcie3", include_str!("../../profiles/rtx3060-pcie3.toml")),
    ("igpu-shared", include_str!("../../profiles/igpu-shared.toml")),
    ("h100-pcie5", include_str!("../../profiles/h100-pcie5.toml")),
];

/// A device and its host machine, from which a [`Plan`](crate::Plan) for it can be computed.
///
/// Written as TOML. The four built-in profiles, in the crate's folder `profiles`, cite the source of every
/// number.
///
/// ```
/// use vram_layers::{LayerWork, Profile};
/// use vram_types::DType;
///
/// let card = Profile::named("rtx4090-pcie4")?;
/// // A linear layer of 3072 inputs and outputs: one row waits for its weights, a thousand rows for
/// // the arithmetic.
/// let layer = |rows: u64| LayerWork { bytes: 2 * 3072 * 3072, flops: 2 * 3072 * 3072 * rows };
/// let costs = card.costs(&[layer(1), layer(1000)], DType::BF16)?;
/// assert!(costs.compute_seconds[0] < 30e-6 && costs.compute_seconds[1] > 100e-6);
/// # Ok::<(), vram_layers::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// A description.
    pub about: String,
    /// Seconds of overhead for each use of a layer, besides its kernels.
    pub dispatch_seconds: f64,
    /// The device's memory.
    pub device: DeviceMemory,
    /// How fast it computes.
    pub flops: Flops,
    /// From host memory to the device; ignored if they are the same memory.
    pub bus: Link,
    /// From disk to host memory.
    pub disk: Link,
    /// The host's memory.
    pub host: HostMemory,
    /// How memory and queues relate to the host.
    pub topology: ProfileTopology,
}

/// Memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceMemory {
    /// All of it, in bytes.
    pub memory_bytes: u64,
    /// What the driver and the display reserve, in bytes.
    pub reserved_bytes: u64,
    /// Peak bandwidth in bytes per second.
    pub bytes_per_second: f64,
    /// The share of the peak that kernels reach, in 0..=1.
    pub attainable_bytes: f64,
}

/// Floating-point operations per second of dense matrix products, by compute dtype.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flops {
    /// In bf16.
    pub bf16: f64,
    /// In f16.
    pub f16: f64,
    /// In f32.
    pub f32: f64,
    /// The share of the peak that kernels reach, in 0..=1.
    pub attainable: f64,
}

/// Memory of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostMemory {
    /// All of it, in bytes.
    pub memory_bytes: u64,
    /// What is not available for weights, in bytes.
    pub reserved_bytes: u64,
}

/// [`Topology`] in its serialised form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileTopology {
    /// See [`Topology::memory`]: `"shared"` or `"discrete"`.
    #[serde(with = "MemoryText")]
    pub memory: Memory,
    /// See [`Topology::kernels`]: `"inline"` or `"queued"`.
    #[serde(with = "ExecutionText")]
    pub kernels: Execution,
    /// See [`Topology::separate_copy_queue`].
    pub separate_copy_queue: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Memory", rename_all = "lowercase")]
enum MemoryText {
    Shared,
    Discrete,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Execution", rename_all = "lowercase")]
enum ExecutionText {
    Inline,
    Queued,
}

impl Profile {
    /// Names of the built-in profiles.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A built-in profile by name.
    ///
    /// # Errors
    /// [`Error::Profile`], which lists the existing names.
    pub fn named(name: &str) -> Result<Profile, Error> {
        match BUILT_IN.iter().find(|(n, _)| *n == name) {
            Some((name, text)) => Profile::parse(name, text),
            None => {
                let names: Vec<&str> = Profile::names().collect();
                Err(refuse(
                    name,
                    format!("there is no such profile; the built-in ones are {}", names.join(", ")),
                ))
            }
        }
    }

    /// Parses a profile. `name` appears in error messages.
    ///
    /// # Errors
    /// [`Error::Profile`] if the text is not a profile or a number in it makes no sense.
    pub fn parse(name: &str, text: &str) -> Result<Profile, Error> {
        let profile: Profile = toml::from_str(text).map_err(|e| refuse(name, e.to_string()))?;
        profile.check().map_err(|what| refuse(name, what))?;
        Ok(profile)
    }

    /// Bytes of device memory available to a budget.
    pub fn device_bytes(&self) -> u64 {
        self.device.memory_bytes.saturating_sub(self.device.reserved_bytes)
    }

    /// Bytes of host memory available to a budget.
    pub fn host_bytes(&self) -> u64 {
        self.host.memory_bytes.saturating_sub(self.host.reserved_bytes)
    }

    /// How memory and queues relate to the host.
    pub fn topology(&self) -> Topology {
        let ProfileTopology { memory, kernels, separate_copy_queue } = self.topology;
        Topology { memory, kernels, separate_copy_queue }
    }

    /// The costs of these layers on this device. A layer takes as long as the slower of its arithmetic and of
    /// reading its weights from device memory (S. Williams et al., "Roofline", CACM 52(4), 2009).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a dtype that no kernel computes in.
    pub fn costs(&self, work: &[LayerWork], dtype: DType) -> Result<Costs, Error> {
        let flops = match dtype {
            DType::BF16 => self.flops.bf16,
            DType::F16 => self.flops.f16,
            DType::F32 => self.flops.f32,
            other => return Err(Error::Unsupported(format!("{other} is not a compute dtype"))),
        } * self.flops.attainable;
        let memory = self.device.bytes_per_second * self.device.attainable_bytes;
        let seconds = |w: &LayerWork| (w.flops as f64 / flops).max(w.bytes as f64 / memory);
        Ok(Costs {
            disk: self.disk,
            bus: self.bus,
            compute_seconds: work.iter().map(seconds).collect(),
            unit_seconds: self.dispatch_seconds,
        })
    }

    fn check(&self) -> Result<(), String> {
        let above = |x: f64| x.is_finite() && x > 0.0;
        let not_below = |x: f64| x.is_finite() && x >= 0.0;
        let share = |x: f64| x > 0.0 && x <= 1.0;
        let rules = [
            ("dispatch_seconds", not_below(self.dispatch_seconds), "0 or more"),
            ("device.bytes_per_second", above(self.device.bytes_per_second), "more than 0"),
            ("device.attainable_bytes", share(self.device.attainable_bytes), "above 0 and at most 1"),
            ("flops.bf16", above(self.flops.bf16), "more than 0"),
            ("flops.f16", above(self.flops.f16), "more than 0"),
            ("flops.f32", above(self.flops.f32), "more than 0"),
            ("flops.attainable", share(self.flops.attainable), "above 0 and at most 1"),
            ("bus.bytes_per_second", above(self.bus.bytes_per_second), "more than 0"),
            ("bus.latency_seconds", not_below(self.bus.latency_seconds), "0 or more"),
            ("disk.bytes_per_second", above(self.disk.bytes_per_second), "more than 0"),
            ("disk.latency_seconds", not_below(self.disk.latency_seconds), "0 or more"),
            ("device.reserved_bytes", self.device_bytes() > 0, "less than device.memory_bytes"),
            ("host.reserved_bytes", self.host_bytes() > 0, "less than host.memory_bytes"),
        ];
        match rules.into_iter().find(|(_, holds, _)| !holds) {
            Some((field, _, wanted)) => Err(format!("{field} must be {wanted}")),
            None => Ok(()),
        }
    }
}

fn refuse(name: &str, reason: String) -> Error {
    Error::Profile { name: name.to_owned(), reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test's failure is a panic
mod tests {
    use super::*;

    #[test]
    fn those_that_come_along_are_sound_and_say_where_each_number_is_from() {
        for (name, text) in BUILT_IN {
            let profile = Profile::named(name).unwrap();
            assert!(profile.device_bytes() > 8 << 30 && profile.host_bytes() > 8 << 30, "{name}");
            for line in text.lines().filter(|l| l.contains(" = ")) {
                let sourced =
                    line.contains(" # ") || ["about", "dispatch", "latency"].iter().any(|w| line.contains(w));
                let stated =
                    ["memory = \"", "kernels", "separate_copy_queue"].iter().any(|w| line.contains(w));
                assert!(sourced || stated, "{name}: {line}");
            }
            // Every cited source is listed.
            for cited in text.split('[').skip(1).filter_map(|t| t.split_once(']')).map(|(c, _)| c) {
                for source in cited
                    .split(", ")
                    .filter(|s| !["device", "flops", "bus", "disk", "host", "topology"].contains(s))
                {
                    assert!(text.contains(&format!("# [{source}] ")), "{name}: {source}");
                }
            }
        }
    }

    #[test]
    fn costs_are_the_slower_of_sums_and_memory() {
        let profile = Profile::named("h100-pcie5").unwrap();
        let costs = |flops, bytes, dtype| {
            profile.costs(&[LayerWork { flops, bytes }], dtype).unwrap().compute_seconds[0]
        };
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        near(costs(756_000_000_000_000, 1, DType::BF16), 1.0 / 0.6);
        near(costs(51_000_000_000_000, 1, DType::F32), 1.0 / 0.6);
        near(costs(1, 1_700_000_000_000, DType::F16), 1.0);
        assert!(profile.costs(&[], DType::I8).is_err());
    }

    #[test]
    fn what_is_no_profile_is_said() {
        let text = BUILT_IN[0].1;
        let check = |text: &str, expected: &str| {
            let error = Profile::parse("mine.toml", text).unwrap_err().to_string();
            assert!(error.contains("mine.toml") && error.contains(expected), "{error}");
        };
        check("", "about");
        check(&format!("speed = 3\n{text}"), "speed");
        check(
            &text.replace("attainable = 0.7", "attainable = 1.5"),
            "flops.attainable must be above 0 and at most 1",
        );
        check(&text.replace("bytes_per_second = 6.3e9", "bytes_per_second = 0.0"), "disk.bytes_per_second");
        check(&text.replace("bytes_per_second = 6.3e9", "bytes_per_second = nan"), "disk.bytes_per_second");
        check(
            &text.replace("reserved_bytes = 1_073_741_824", "reserved_bytes = 25_769_803_776"),
            "device.reserved_bytes",
        );
        let error = Profile::named("rtx9090").unwrap_err().to_string();
        assert!(Profile::names().all(|name| error.contains(name)), "{error}");
    }
}
