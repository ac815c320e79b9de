//! The device: puts its parts together and forwards calls to them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ::cudarc::driver::{CudaContext, CudaStream, sys};

use super::adapter::{self, CudaDevice};
use super::blas::Blas;
use super::cache::CudaCache;
use super::context::{Context, CudaReserve};
use super::cublas;
use super::driver::{Card, Ctx, Stream};
use super::guard::{self, Guard};
use super::launch::Launcher;
use super::memory::{self, DeviceMemory, Pinned};
use super::probe::{self, unavailable};
use super::program::Programs;
use super::transfer::{self, Readback};
use crate::{
    Buffer, Device, DeviceError, DeviceInfo, Execution, Memory, MemoryInfo, Part, Queue, Region, Reservation,
    Staging, Ticket, Topology,
};
/// What computes products of two tensors of the same dtype. If the dtypes differ (a weight in fp8, say), it
/// is always our own kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CudaMatmul {
    /// cublasLt if it is installed, otherwise our own kernels; [`Cuda::notes`] says why.
    #[default]
    Auto,
    /// cublasLt, or an error.
    CublasLt,
    /// Our own kernels.
    Own,
}

/// Options of a [`Cuda`].
#[derive(Clone, Debug, Default)]
pub struct CudaOptions {
    /// Which card.
    pub device: CudaDevice,
    /// What computes products.
    pub matmul: CudaMatmul,
    /// Where compiled kernels are cached.
    pub cache: CudaCache,
}

/// An NVIDIA card; see the [module](super).
pub struct Cuda {
    info: DeviceInfo,
    pub(super) context: Arc<Context>,
    pub(super) launcher: Launcher,
    readback: Arc<Readback>,
    pub(super) blas: Option<Arc<Blas>>,
}

impl Cuda {
    /// Opens a card: its primary context, which the runtime API and most libraries also use, and new streams.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] with the reason if a library or the card is missing;
    /// [`DeviceError::OutOfMemory`] if there is no room for the little that the backend itself needs.
    pub fn new(options: CudaOptions) -> Result<Cuda, DeviceError> {
        let card = adapter::choose(&options.device)?;
        probe::nvrtc()?;
        let ctx = Ctx::primary(&card)?;
        Cuda::set_up(ctx, card, None, &options)
    }

    /// Uses a caller-owned context, with the caller's streams for copies and kernels or with new ones. The
    /// choice of a card is ignored. The context becomes current on each calling thread. It must not be reset
    /// while anything of this device exists, which cudarc's own types forbid as well.
    ///
    /// # Errors
    /// See [`new`](Cuda::new); [`DeviceError::Failed`] for streams of another context.
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
            let reason = "it belongs to another context".to_owned();
            return Err(DeviceError::Failed { what: "a stream", reason });
        }
        let (ctx, card) = Ctx::adopt(context)?;
        Cuda::set_up(ctx, card, streams, &options)
    }

    fn set_up(
        ctx: Ctx,
        card: Card,
        streams: Option<(Arc<CudaStream>, Arc<CudaStream>)>,
        options: &CudaOptions,
    ) -> Result<Cuda, DeviceError> {
        let (context, programs, one_stream) = match Cuda::start(&ctx, &card, streams, options) {
            Ok((copy, compute, programs, before)) => {
                let one_stream = copy.handle() == compute.handle();
                (Arc::new(Context::new(ctx, copy, compute, before)), programs, one_stream)
            }
            Err(error) => {
                ctx.destroy();
                return Err(error);
            }
        };
        let readback = Arc::new(Readback::default());
        context.at_end(Arc::<Readback>::clone(&readback));
        let launcher = Launcher::new(&context, programs);
        let (blas, products) = Cuda::products(&context, &readback, options.matmul)?;
        let info = DeviceInfo {
            backend: "cuda",
            name: format!("{}, products by {products}", card.describe()),
            topology: Topology {
                memory: Memory::Discrete,
                kernels: Execution::Queued,
                separate_copy_queue: !one_stream,
            },
            alignment: 256,
            max_allocation: card.total,
        };
        Ok(Cuda { info, context, launcher, readback, blas })
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
            Some((copy, compute)) => (Stream::adopt(copy), Stream::adopt(compute)),
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

    /// Sets up cublasLt if it is wanted and installed, and decides what computes products.
    fn products(
        context: &Context,
        readback: &Arc<Readback>,
        matmul: CudaMatmul,
    ) -> Result<(Option<Arc<Blas>>, String), DeviceError> {
        match (matmul, probe::cublas_lt()) {
            (CudaMatmul::Own, _) => Ok((None, "its own kernels".into())),
            (CudaMatmul::CublasLt, Err(why)) => Err(unavailable(format!("there is no cublasLt: {why}"))),
            (CudaMatmul::Auto, Err(why)) => {
                context.note(format!("products are computed by our own kernels, because {why}"));
                Ok((None, format!("its own kernels ({why})")))
            }
            (_, Ok(())) => {
                let blas = Blas::new(context, readback)?;
                Ok((Some(blas), format!("cublasLt {}", cublas::version())))
            }
        }
    }

    /// The device address of a region, for custom kernels; `None` for memory of another device.
    pub fn native(&self, region: &Region) -> Option<sys::CUdeviceptr> {
        memory::own(&self.context, region)
    }

    /// The context, for custom kernels.
    pub fn native_context(&self) -> sys::CUcontext {
        self.context.ctx().handle()
    }

    /// The stream of a queue, for custom kernels. Tickets requested later cover what was issued to it
    /// directly.
    pub fn native_stream(&self, queue: Queue) -> sys::CUstream {
        self.context.timeline(queue).stream.handle()
    }

    /// Device memory held besides allocations, as far as it could be measured so far. It is computed from
    /// differences of the driver's free memory, so other processes show up in it.
    pub fn reserve(&self) -> CudaReserve {
        self.context.reserve()
    }

    /// Notes for the user: a missing library, compiled kernels that could not be cached.
    pub fn notes(&self) -> Vec<String> {
        self.context.notes()
    }

    /// Whether the driver has reported that the context is lost.
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

    /// Waits first for freed memory that copies or kernels still use, so that both are never held at once.
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
        self.readback.download(&self.context, src, at, dst)
    }

    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        self.context.issue(queue, |_| Ok(()))
    }

    fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        if guard::guard(Guard::Order) { self.context.order(queue, after) } else { Ok(()) }
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
