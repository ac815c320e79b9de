//! Every card that Vulkan, Metal or DX12 supports, through the crate `wgpu`; with the feature `wgpu`.
//!
//! There is one queue. Copies and kernels run in the order in which they were issued, including those that
//! have been encoded but not yet submitted, so a copy never overtakes a kernel. Staging is memory that the
//! adapter maps: readers write there, and only the adapter copies from it. Kernels are WGSL, compiled on
//! first use; tile sizes and the order of sums depend only on shapes.
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

/// wgpu, for your own devices and buffers. Outside semantic versioning: its version changes in any release.
pub use ::wgpu as api;
pub use adapter::{WgpuAdapter, adapters};
pub use device::{Wgpu, WgpuOptions};
pub use memory::WgpuUsage;
