//! When units move and how long a pass takes: a model of the machine, the simulation of a schedule on it, and
//! the choice of what stays. Pure: no I/O, no clock, no locks. Times are whole nanoseconds, so the same
//! problem gives the same answer everywhere.
//!
//! Units are used in a cycle, pass after pass. A unit that stays on the device costs only its compute time.
//! Any other passes through the ring: it takes a slot, in order of use, as soon as the ring has room for all
//! of its bytes in one piece, and gives it back when its kernels are done. So a pass in the steady state
//! takes at least the [bound](Problem::bound): the busiest of the links and the kernels, or their sum on a
//! device with one queue.
//!
//! ```
//! use vram_layers::schedule::{Residency, Machine, Problem, UnitCost, choose, simulate};
//!
//! // 40 layers of 100 bytes, each taking twice as long on the disk as in the kernels; room for half of them.
//! let layer = UnitCost { bytes: 100, compute: 1_000, disk: 2_000, bus: 0 };
//! let problem = Problem { units: vec![layer; 40], trace: (0..40).collect(), machine: Machine::shared() };
//! let choice = choose(&problem, &problem.room(2_000 + 200));
//! let bound = problem.bound(&choice.kept).nanos;
//! assert_eq!(bound, 40_000);
//! assert!(choice.pass <= bound + bound / 50);
//!
//! // Keeping the first half of the layers, a prefix, instead: the ring runs dry in the second half.
//! let prefix: Vec<Residency> = (0..40).map(|i| if i < 20 { Residency::Device } else { Residency::Source }).collect();
//! let prefix = simulate(&problem, &prefix, 200, 8).ok_or("the largest unit fits the ring")?;
//! assert!(prefix.steady() > bound + bound / 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod candidate;
mod choose;
mod floor;
mod problem;
mod search;
mod simulate;
mod spread;

pub use candidate::Choice;
pub use choose::choose;
pub(crate) use floor::floor;
pub use problem::{Bound, Limit, Machine, Problem, Residency, Room, UnitCost};
pub(crate) use simulate::simulate_listing;
pub use simulate::{Fetch, Timeline, simulate};
