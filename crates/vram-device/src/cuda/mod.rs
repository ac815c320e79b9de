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
mod blas;
mod cache;
mod compute;
mod context;
mod cublas;
mod driver;
mod guard;
mod kernels;
mod memory;
mod nvrtc;
mod operand;
mod probe;
mod program;
mod queue;
mod theirs;
mod transfer;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ::cudarc::driver::{CudaContext, CudaStream};

pub use ::cudarc as api;
pub use adapter::{CudaDevice, devices};
pub use cache::CudaCache;
pub use context::CudaReserve;
#[cfg(feature = "mutations")]
pub use guard::{Guard, leave_out};
pub use program::{CudaSource, compiler, sources};

use crate::{
    Buffer, Device, DeviceError, DeviceInfo, MemoryInfo, Part, Queue, Region, Reservation, Staging, Ticket,
    Topology,
};
use blas::Blas;
use context::Context;
use driver::{Card, Ctx, Stream};
use memory::{DeviceMemory, Pinned};
use probe::unavailable;
use program::Programs;

/// What computes products of tensors of one dtype. Those of two (a weight in fp8, say) are always our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CudaMatmul {
    /// cublasLt if it is here, else our own kernels; [`Cuda::notes`] says why.
    #[default]
    Auto,
    /// cublasLt, or an error.
    CublasLt,
    /// Our own kernels.
    Own,
}

/// How to set up a [`Cuda`].
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// Which card.
    pub device: CudaDevice,
    /// What computes products.
    pub matmul: CudaMatmul,
    /// Where compiled kernels are kept.
    pub cache: CudaCache,
}

/// An NVIDIA card; see the [module](self).
pub struct Cuda {
    info: DeviceInfo,
    context: Arc<Context>,
}

impl Cuda {
    /// Opens a card: its primary context, which the runtime's interface and most libraries use as well, and streams of its own.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] where a library or the card is missing, with the reason; [`DeviceError::OutOfMemory`] where there
    /// is no room for the little that the backend itself needs.
    pub fn new(options: CudaOptions) -> Result<Cuda, DeviceError> {
        let card = adapter::choose(&options.device)?;
        probe::nvrtc()?;
        let ctx = Ctx::primary(&card)?;
        Cuda::set_up(ctx, card, None, &options)
    }

    /// Works in a context of the caller's own, on the caller's streams for copies and for kernels or on new ones. The choice of a
    /// card is ignored. The context becomes current on each thread that calls; it must not be reset while anything of this device is
    /// there, which cudarc's own types forbid as well.
    ///
    /// # Errors
    /// As for [`new`](Cuda::new); [`DeviceError::Failed`] for streams of another context.
    pub fn over(
        context: Arc<CudaContext>,
        streams: Option<(Arc<CudaStream>, Arc<CudaStream>)>,
        options: CudaOptions,
    ) -> Result<Cuda, DeviceError> {
        probe::driver()?;
        probe::nvrtc()?;
        if let Some((copy, compute)) = &streams
            && [copy, compute].iter().any(|stream| **stream.context() != *context)
        {
            let reason = "it is of another context".to_owned();
            return Err(DeviceError::Failed { what: "a stream", reason });
        }
        let (ctx, card) = Ctx::theirs(context)?;
        Cuda::set_up(ctx, card, streams, &options)
    }

    fn set_up(
        ctx: Ctx,
        card: Card,
        streams: Option<(Arc<CudaStream>, Arc<CudaStream>)>,
        options: &CudaOptions,
    ) -> Result<Cuda, DeviceError> {
        let (context, one_stream) = match Cuda::start(&ctx, &card, streams, options) {
            Ok((copy, compute, programs, before)) => {
                let one_stream = copy.handle() == compute.handle();
                (Context::new(ctx, copy, compute, programs, before), one_stream)
            }
            Err(error) => {
                ctx.destroy();
                return Err(error);
            }
        };
        let products = Cuda::products(&context, options.matmul)?;
        let info = DeviceInfo {
            backend: "cuda",
            name: format!("{}, products by {products}", card.describe()),
            topology: Topology { host_visible: false, separate_copy_queue: !one_stream },
            alignment: 256,
            max_allocation: card.total,
        };
        Ok(Cuda { info, context: Arc::new(context) })
    }

    fn start(
        ctx: &Ctx,
        card: &Card,
        streams: Option<(Arc<CudaStream>, Arc<CudaStream>)>,
        options: &CudaOptions,
    ) -> Result<(Stream, Stream, Programs, u64), DeviceError> {
        ctx.enter()?;
        let (free, total) = ctx.memory()?;
        let programs = Programs::new(card.capability, options.cache.folder())?;
        let (copy, compute) = match streams {
            Some((copy, compute)) => (Stream::theirs(copy), Stream::theirs(compute)),
            None => {
                let copy = Stream::new()?;
                match Stream::new() {
                    Ok(compute) => (copy, compute),
                    Err(error) => {
                        copy.destroy();
                        return Err(error);
                    }
                }
            }
        };
        Ok((copy, compute, programs, total.saturating_sub(free)))
    }

    /// Sets up cublasLt if it is wanted and here, and says what computes products.
    fn products(context: &Context, matmul: CudaMatmul) -> Result<String, DeviceError> {
        match (matmul, probe::cublas_lt()) {
            (CudaMatmul::Own, _) => Ok("its own kernels".into()),
            (CudaMatmul::CublasLt, Err(why)) => Err(unavailable(format!("there is no cublasLt: {why}"))),
            (CudaMatmul::Auto, Err(why)) => {
                context.note(format!("products are computed by our own kernels, because {why}"));
                Ok(format!("its own kernels ({why})"))
            }
            (_, Ok(())) => {
                let blas = context.with(|| context.measured(|reserve| &mut reserve.workspace, Blas::new))?;
                // Set here alone, and once.
                let _ = context.blas.set(blas);
                Ok(format!("cublasLt {}", cublas::version()))
            }
        }
    }

    /// Where a region begins on the card, for kernels of one's own; `None` for memory of another device.
    pub fn native(&self, region: &Region) -> Option<api::driver::sys::CUdeviceptr> {
        self.context.own(region)
    }

    /// The context, for kernels of one's own.
    pub fn native_context(&self) -> api::driver::sys::CUcontext {
        self.context.ctx().handle()
    }

    /// The stream of a queue, for kernels of one's own. Tickets that are asked for later cover what was issued to it directly.
    pub fn native_stream(&self, queue: Queue) -> api::driver::sys::CUstream {
        self.context.timeline(queue).stream.handle()
    }

    /// Bytes of the card that are held beside allocations, as far as could be measured so far: a difference of what the driver calls
    /// free, in which other processes show as well.
    pub fn reserve(&self) -> CudaReserve {
        self.context.reserve()
    }

    /// What a person should know: a library that is missing, compiled kernels that could not be kept.
    pub fn notes(&self) -> Vec<String> {
        self.context.notes()
    }

    /// Whether the driver has said that the context is lost.
    pub fn is_lost(&self) -> bool {
        self.context.is_lost()
    }
}

impl Device for Cuda {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.context.memory()
    }

    /// Memory that was given back while copies or kernels used it is waited for first, so that both are never held at once.
    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError> {
        let raw = DeviceMemory::new(&self.context, reservation.bytes())?;
        Ok(Buffer::new(Box::new(raw), reservation))
    }

    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError> {
        let raw = Pinned::new(&self.context, reservation.bytes())?;
        Staging::new(Buffer::new(Box::new(raw), reservation)).ok_or_else(|| DeviceError::Failed {
            what: "staging",
            reason: "it is not visible to the host".into(),
        })
    }

    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError> {
        transfer::upload(&self.context, src, range, dst, at)
    }

    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        transfer::download(&self.context, src, at, dst)
    }

    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        self.context.issue(queue, |_| Ok(()))
    }

    fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        if guard::guard(guard::Guard::Order) { self.context.order(queue, after) } else { Ok(()) }
    }

    fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        self.context.is_done(ticket)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        self.context.wait(ticket)
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda")
            .field("name", &self.info.name)
            .field("reserve", &self.reserve())
            .field("notes", &self.notes())
            .finish_non_exhaustive()
    }
}
