//! Device memory under a hard byte budget, asynchronous copies ordered by tickets, and compute kernels,
//! behind two object-safe traits: [`Device`] (ten methods, memory and order) and [`Kernels`] (arithmetic: it
//! runs the operations of [`ops`]).
//!
//! Nothing is allocated without a [`Reservation`] from a [`Budget`]. A [`Region`] is the exclusive owner of
//! its bytes, so a slot never has two users. The CPU backend, [`cpu::Cpu`], is the embedded default and does
//! real work. [`sim::Sim`] is a simulated device with a virtual clock that detects missing ordering. The
//! feature `wgpu` adds a module for every card that Vulkan, Metal or DX12 supports, the feature `cuda` one
//! for NVIDIA cards. [`conformance`] is the suite that every backend passes.
//!
//! ```
//! use vram_device::{Budget, Device, Lifetime, Tier, cpu::Cpu};
//!
//! let cpu = Cpu::new(Default::default())?;
//! let budget = Budget::new(Tier::Device, 1 << 20);
//! let mut region = cpu.allocate(budget.reserve(Lifetime::Weights, 4096)?)?.into_region();
//! region.host_mut().ok_or("the CPU's memory is host-visible")?.fill(7);
//! assert_eq!(budget.used(), 4096);
//! drop(region);
//! assert_eq!(budget.used(), 0);
//! assert!(budget.reserve(Lifetime::Pass, (1 << 20) + 1).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_op_in_unsafe_fn)]

mod backends;
mod budget;
pub mod conformance;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod error;
mod kernels;
mod memory;
pub mod ops;
pub mod sim;
mod sync;
mod view;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use backends::{Backend, backends, open};
pub use budget::{Budget, BudgetExceeded, Lifetime, Reservation, Tier, Usage};
pub use device::{Device, DeviceInfo, Execution, Memory, MemoryInfo, Queue, Ticket, Topology};
pub use error::DeviceError;
pub use kernels::{Kernels, KernelsExt};
pub use memory::{
    Arena, Buffer, FirstFit, Measure, OffsetAlloc, Part, RawBuffer, Region, RingAlloc, Stage, Staging,
};
pub use view::{View, ViewMut};
