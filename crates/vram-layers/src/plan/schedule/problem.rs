//! Units, the order of their use and the machine, as numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Costs of one unit, in nanoseconds of each resource that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnitCost {
    /// Size of its slot in bytes.
    pub bytes: u64,
    /// Its kernels, for one use.
    pub compute: u64,
    /// From disk to the host, or straight into the slot if the device shares the host's memory.
    pub disk: u64,
    /// From the host to the device; 0 if they share memory.
    pub bus: u64,
}

/// Where a unit's weights are between uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residency {
    /// On the device.
    Device,
    /// In host memory: it crosses the bus for each use.
    Host,
    /// In the source only: it crosses both links for each use.
    #[default]
    Source,
}

/// How links and kernels work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Readers fill the slot itself and kernels run when they are issued: one link, no staging.
    pub shares_memory: bool,
    /// Copies and kernels take turns on one queue.
    pub one_queue: bool,
    /// Host memory that bytes pass through on their way from the disk to the bus.
    pub staging: u64,
    /// Slots begin at multiples of this many bytes, a power of two.
    pub align: u64,
    /// Bytes that move at a time: a unit can be crossing the bus while the rest of it is still being read.
    pub chunk: u64,
}

impl Machine {
    /// The device shares the host's memory.
    pub const fn shared() -> Machine {
        Machine { shares_memory: true, one_queue: false, staging: 0, align: 1, chunk: u64::MAX }
    }

    /// A device with its own memory and separate queues for copies and kernels.
    pub const fn discrete(staging: u64, chunk: u64) -> Machine {
        Machine { shares_memory: false, one_queue: false, staging, align: 1, chunk }
    }
}

/// Units, the order in which a pass uses them, and the machine.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What each unit takes.
    pub units: Vec<UnitCost>,
    /// Indices of units in order of use; a unit may appear more than once.
    pub trace: Vec<usize>,
    /// The machine.
    pub machine: Machine,
}

/// The lower bound of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// In nanoseconds.
    pub nanos: u64,
    /// What sets it.
    pub limit: Limit,
}

/// What a pass spends its time on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Kernels.
    #[default]
    Compute,
    /// The link from disk to host.
    Disk,
    /// The link from host to device.
    Bus,
    /// One queue that runs copies and kernels in turn.
    Queue,
}

/// The memory available for weights.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes on the device, for residents and ring together.
    pub device: u64,
    /// Bytes on the host, for weights that wait there.
    pub host: u64,
    /// Size of the ring in bytes, if it is fixed.
    pub ring: Option<u64>,
    /// Smallest ring in bytes, for units that are not in the trace.
    pub least_ring: u64,
    /// Bytes below which a ring has to pay, by one part in fifty: it waits at once for a slow read.
    pub wanted_ring: u64,
    /// Bytes above which a ring is of no more use than residents are.
    pub target_ring: u64,
}

impl Problem {
    /// The bound of the steady state with these units kept.
    pub fn bound(&self, kept: &[Residency]) -> Bound {
        let (mut compute, mut disk, mut bus) = (0, 0, 0);
        for &unit in &self.trace {
            let cost = &self.units[unit];
            compute += cost.compute;
            if kept[unit] != Residency::Device {
                bus += cost.bus;
            }
            if kept[unit] == Residency::Source {
                disk += cost.disk;
            }
        }
        let mut all = vec![(compute, Limit::Compute), (bus, Limit::Bus), (disk, Limit::Disk)];
        if self.machine.one_queue && bus > 0 {
            all.insert(0, (compute + bus, Limit::Queue));
        }
        // On a tie, the first.
        let best = all.into_iter().rev().max_by_key(|(nanos, _)| *nanos);
        best.map_or(Bound { nanos: 0, limit: Limit::Compute }, |(nanos, limit)| Bound { nanos, limit })
    }

    /// `device` bytes on the device and none on the host, with the ring as large as is useful.
    pub fn room(&self, device: u64) -> Room {
        Room { device, host: 0, ring: None, least_ring: 0, wanted_ring: 0, target_ring: u64::MAX }
    }

    /// How often each unit is used in a pass.
    pub(crate) fn uses(&self) -> Vec<u64> {
        let mut uses = vec![0; self.units.len()];
        for &unit in &self.trace {
            uses[unit] += 1;
        }
        uses
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Limit::Compute => "compute",
            Limit::Disk => "disk",
            Limit::Bus => "bus",
            Limit::Queue => "queue",
        })
    }
}
