//! NVIDIA cards, through the driver API; with the feature `cuda`.
//!
//! Nothing of CUDA is needed to build: its libraries are loaded when a [`Cuda`] is created. The driver
//! (libcuda) and NVRTC are required; cublasLt is used if it is installed, unless [`CudaMatmul`] says
//! otherwise. Errors name what is missing.
//!
//! There are two streams, one for copies and one for kernels, which run concurrently and are ordered by
//! events. A [`Ticket`](crate::Ticket) is a recorded event, [`order`](crate::Device::order) makes a stream
//! wait for one, and the host waits for none in the steady state. Staging is page-locked memory of exactly
//! the requested size. An allocation is one driver allocation, freed after the work that uses it. The next
//! allocation waits for that, so the card never holds more than was reserved, apart from what
//! [`Cuda::reserve`] measures and from the driver's own granularity (2 MiB for each allocation of a MiB or
//! more).
//!
//! We use cudarc's layer `sys` and not the safe one above it, which records its own events after every call,
//! frees memory and waits where the order here must decide, and asks the driver for the text of an error,
//! which is not allowed once the context is lost. Its types are the interface for caller-owned contexts and
//! streams ([`Cuda::over`]); memory is passed by pointer ([`Cuda::adopt`]).
//!
//! Kernels are CUDA C, compiled by NVRTC for the card on first use and cached on disk ([`CudaCache`]). Every
//! element is summed in the order of the inner extent, whatever the tile. Products by cublasLt use one
//! algorithm for each inner extent and dtype, which must show in a trial that neither the number of rows nor
//! a cut of the weight changes a bit.
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

/// cudarc, for your own memory and streams. Outside semantic versioning: its version changes in any release.
pub use ::cudarc as api;
pub use adapter::{CudaDevice, devices};
pub use cache::CudaCache;
pub use context::CudaReserve;
pub use device::{Cuda, CudaMatmul, CudaOptions};
#[cfg(feature = "mutations")]
pub use guard::{Guard, leave_out};
pub use sources::{CudaSource, compiler, sources};
