//! NVIDIA cards, through the driver's own interface; with the feature `cuda`.
//!
//! Nothing of CUDA is needed to build: its libraries are loaded when a [`Cuda`] is made. The driver (libcuda) and NVRTC have to be
//! there; cublasLt is used where it is, and [`CudaMatmul`] says otherwise. What is missing is told by name.
//!
//! There are two streams, one for copies and one for kernels, which run beside each other and are ordered by events: a
//! [`Ticket`] is an event that was recorded, [`order`](Device::order) makes a stream wait for one, and the host waits for none in the
//! steady state. Staging is page-locked memory of exactly the size that was asked for. An allocation is one of the driver's,
//! freed behind the work that uses it; the next allocation waits for that, so that the card never holds more than was reserved,
//! but for what [`Cuda::reserve`] measures and for the driver's own granularity (2 MiB for each allocation of a MiB or more).
//!
//! Of cudarc, the layer `sys` is used and not the safe one above it: that records events of its own behind every call, frees
//! memory and waits where the order here says when, and asks the driver for the text of an error, which it may not be asked any
//! more once the context is lost. Its types are what a context and streams of the caller's own are handed in by
//! ([`Cuda::over`]); memory is by its pointer ([`Cuda::adopt`]).
//!
//! Kernels are CUDA C, compiled by NVRTC for the card when they are first used and kept on disk ([`CudaCache`]). Every element is
//! summed in the order of the inner extent, whatever the tile; products by cublasLt have one algorithm for each inner extent and dtype,
//! which has to show on a trial that neither the number of rows nor a cut of the weight changes a bit.
//!
//! ```
//! use vram_device::cuda::{Cuda, CudaOptions};
//!
//! match Cuda::new(CudaOptions::default()) {
//!     Ok(cuda) => println!("{cuda:?}"),
//!     Err(reason) => println!("{reason}"),
//! }
//! ```

mod adapter;
mod adopt;
mod blas;
mod cache;
mod context;
mod cublas;
mod device;
mod driver;
mod freed;
mod guard;
mod launch;
mod memory;
mod nvrtc;
mod operand;
mod ops;
mod probe;
mod program;
mod queue;
mod sources;
mod transfer;

/// cudarc, for memory and streams of one's own. Outside semantic versioning: its version changes in any release.
pub use ::cudarc as api;
pub use adapter::{CudaDevice, devices};
pub use cache::CudaCache;
pub use context::CudaReserve;
pub use device::{Cuda, CudaMatmul, CudaOptions};
#[cfg(feature = "mutations")]
pub use guard::{Guard, leave_out};
pub use sources::{CudaSource, compiler, sources};
