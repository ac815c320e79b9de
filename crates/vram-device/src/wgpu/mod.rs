//! Every card that Vulkan, Metal or DX12 reaches, through the crate `wgpu`; with the feature `wgpu`.
//!
//! There is one queue: copies and kernels are performed in the order in which they were issued, also those that have been
//! encoded and not yet submitted, so that a copy never overtakes a kernel. Staging is memory that the adapter maps: what a
//! reader writes there is copied to its place by the adapter and by nobody else. Kernels are WGSL, compiled when they are
//! first used; the extent of a tile and the order of sums follow from shapes alone.
//!
//! ```
//! use vram_device::wgpu::{Wgpu, WgpuOptions};
//!
//! match Wgpu::new(WgpuOptions::default()) {
//!     Ok(wgpu) => println!("{wgpu:?}"),
//!     Err(reason) => println!("{reason}"),
//! }
//! ```

mod adapter;
mod context;
mod device;
mod driver;
mod launch;
mod memory;
mod operand;
mod ops;
mod pipeline;
mod queue;
mod transfer;

/// wgpu, for devices and buffers of one's own. Outside semantic versioning: its version changes in any release.
pub use ::wgpu as api;
pub use adapter::{WgpuAdapter, adapters};
pub use device::{Wgpu, WgpuOptions};
pub use memory::WgpuUsage;
