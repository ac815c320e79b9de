//! When units move, and how long a pass takes for it: a model of the machine, the simulation of a schedule on it, and
//! the choice of what stays. Pure: no I/O, no clock, no locks, and times are whole nanoseconds, so that the same
//! problem gives the same answer everywhere.
//!
//! Units are used in a cycle, pass after pass. A unit that stays on the device costs only its compute time; any other
//! passes through the ring: its bytes are taken, in order of use, as soon as the ring has room for all of them in one
//! piece, and given back when its kernels are done. So the time of a pass in the long run is at least the
//! [bound](Problem::bound): the busiest of the links and the kernels, or on a device with one queue their sum.
//!
//! ```
//! use vram_layers::schedule::{Kept, Machine, Problem, UnitCost, choose, simulate};
//!
//! // 40 layers of 100 bytes, each twice as long on the disk as in the kernels; room for half of them.
//! let layer = UnitCost { bytes: 100, compute: 1_000, disk: 2_000, bus: 0 };
//! let problem = Problem { units: vec![layer; 40], trace: (0..40).collect(), machine: Machine::host_visible() };
//! let choice = choose(&problem, &problem.room(2_000 + 200));
//! let bound = problem.bound(&choice.kept).nanos;
//! assert_eq!(bound, 40_000);
//! assert!(choice.pass <= bound + bound / 50);
//!
//! // The first half of the layers kept instead, a prefix: the ring runs dry in the second half.
//! let prefix: Vec<Kept> = (0..40).map(|i| if i < 20 { Kept::Device } else { Kept::Nowhere }).collect();
//! let prefix = simulate(&problem, &prefix, 200, 8).ok_or("the largest unit fits the ring")?;
//! assert!(prefix.steady() > bound + bound / 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod choose;
mod search;
mod simulate;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use choose::{Choice, Room, choose};
pub use simulate::{Fetch, Timeline, simulate};

/// What one unit takes, in nanoseconds of each resource that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct UnitCost {
    /// Bytes of its slot.
    pub bytes: u64,
    /// Its kernels, each time it is used.
    pub compute: u64,
    /// From disk to the host, or straight into the slot where the device's memory is the host's.
    pub disk: u64,
    /// From the host to the device; 0 where the device's memory is the host's.
    pub bus: u64,
}

/// Where a unit's weights are between uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// On the device.
    Device,
    /// In host memory: it crosses the bus for each use.
    Host,
    /// On disk alone: it crosses both links for each use.
    #[default]
    Nowhere,
}

/// How links and kernels work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Readers fill the slot itself and kernels run where they are issued: one link, no staging.
    pub host_visible: bool,
    /// Copies and kernels take turns on one queue.
    pub one_queue: bool,
    /// Host memory that bytes pass through on their way from the disk to the bus.
    pub staging: u64,
    /// Slots begin at multiples of so many bytes, a power of two.
    pub align: u64,
    /// Bytes that move at a time; a unit is on its way over the bus while the rest of it is still read.
    pub chunk: u64,
}

impl Machine {
    /// The device's memory is the host's.
    pub const fn host_visible() -> Machine {
        Machine { host_visible: true, one_queue: false, staging: 0, align: 1, chunk: u64::MAX }
    }

    /// A device with memory of its own and a queue for copies beside that for kernels.
    pub const fn discrete(staging: u64, chunk: u64) -> Machine {
        Machine { host_visible: false, one_queue: false, staging, align: 1, chunk }
    }
}

/// Units, the order in which a pass uses them, and the machine.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What each unit takes.
    pub units: Vec<UnitCost>,
    /// Indices of units in order of use; one may come more than once.
    pub trace: Vec<usize>,
    /// The machine.
    pub machine: Machine,
}

/// What a pass cannot be faster than.
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

impl Problem {
    /// The bound of the steady state with these units kept.
    pub fn bound(&self, kept: &[Kept]) -> Bound {
        let (mut compute, mut disk, mut bus) = (0, 0, 0);
        for &unit in &self.trace {
            let cost = &self.units[unit];
            compute += cost.compute;
            if kept[unit] != Kept::Device {
                bus += cost.bus;
            }
            if kept[unit] == Kept::Nowhere {
                disk += cost.disk;
            }
        }
        let mut all = vec![(compute, Limit::Compute), (bus, Limit::Bus), (disk, Limit::Disk)];
        if self.machine.one_queue && bus > 0 {
            all.insert(0, (compute + bus, Limit::Queue));
        }
        // The first of equals.
        let best = all.into_iter().rev().max_by_key(|(nanos, _)| *nanos);
        best.map_or(Bound { nanos: 0, limit: Limit::Compute }, |(nanos, limit)| Bound { nanos, limit })
    }

    /// A room of so many bytes on the device and none on the host, the ring as large as is of use.
    pub fn room(&self, device: u64) -> Room {
        Room { device, host: 0, ring: None, least_ring: 0, target_ring: u64::MAX }
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
