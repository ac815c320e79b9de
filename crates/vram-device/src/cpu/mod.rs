//! The CPU: the embedded default backend. Memory is anonymous pages, and copies and kernels run inside the
//! call.

mod available;
mod error;
mod isa;
mod math;
mod memory;
mod num;
pub mod ops;
mod par;

use std::ops::Range;
use std::sync::Arc;

use crate::{
    Buffer, Device, DeviceError, DeviceInfo, Execution, Memory, MemoryInfo, Part, Queue, Region, Reservation,
    Staging, Ticket, Topology,
};
pub use error::KernelError;
pub use isa::{ISA_VARIABLE, Isa, IsaKind};
use memory::Pages;
pub use par::Pool;

/// Options of a [`Cpu`].
#[derive(Clone, Debug, Default)]
pub struct CpuOptions {
    /// Compute threads; by default all cores that the process may use.
    pub threads: Option<usize>,
    /// Pretends that kernels cannot read host memory, so that weights are staged and copied as for a discrete
    /// GPU. For tests and comparisons.
    pub discrete: bool,
    /// The instruction-set path; by default `VRAM_CPU_ISA` if it is set, else the fastest on this processor.
    pub isa: Option<Isa>,
}

/// The processor, with its own thread pool.
#[derive(Debug)]
pub struct Cpu {
    info: DeviceInfo,
    isa: Isa,
    pool: Arc<rayon::ThreadPool>,
}

impl Cpu {
    /// Starts the threads and chooses the instruction-set path.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] if threads cannot be started, or if `VRAM_CPU_ISA` names a path that this
    /// processor does not support.
    pub fn new(options: CpuOptions) -> Result<Cpu, DeviceError> {
        let unavailable =
            |what: &str, reason: String| DeviceError::Unavailable { what: what.to_owned(), reason };
        let threads = match options.threads {
            Some(0) => return Err(unavailable("a CPU device with 0 threads", "at least 1 is needed".into())),
            Some(n) => n,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("vram-cpu-{i}"))
            .build()
            .map_err(|e| unavailable("the CPU's thread pool", e.to_string()))?;
        let isa = match options.isa {
            Some(isa) => isa,
            None => Isa::detect().map_err(|e| unavailable("the CPU device", e.to_string()))?,
        };
        let info = DeviceInfo {
            backend: "cpu",
            name: format!("{threads} threads, {isa}"),
            topology: Topology {
                memory: if options.discrete { Memory::Discrete } else { Memory::Shared },
                kernels: Execution::Inline,
                separate_copy_queue: false,
            },
            alignment: memory::PAGE,
            max_allocation: isize::MAX as u64,
        };
        Ok(Cpu { info, isa, pool: Arc::new(pool) })
    }

    /// The instruction-set path.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of compute threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }
}

impl Device for Cpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        available::available()
    }

    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError> {
        Ok(Buffer::new(Box::new(Pages::new(reservation.bytes())?), reservation))
    }

    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError> {
        let buffer = self.allocate(reservation)?;
        Staging::new(buffer).ok_or_else(|| DeviceError::Unavailable {
            what: "staging".into(),
            reason: "the memory is not host-visible".into(),
        })
    }

    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError> {
        let out = |what, offset, bytes, available| DeviceError::OutOfRange { what, offset, bytes, available };
        let bytes = range.end.saturating_sub(range.start);
        let from = src
            .region()
            .host()
            .unwrap_or_default()
            .get(range.start as usize..range.end as usize)
            .ok_or_else(|| out("the source of an upload", range.start, bytes, src.bytes()))?;
        let available = dst.range().end - dst.range().start;
        dst.host_mut()
            .and_then(|to| to.get_mut(at as usize..)?.get_mut(..from.len()))
            .ok_or_else(|| out("the target of an upload", at, bytes, available))?
            .copy_from_slice(from);
        self.ticket(Queue::Copy)
    }

    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        let len = dst.len();
        let from = src.host().and_then(|from| from.get(at as usize..)?.get(..len)).ok_or(
            DeviceError::OutOfRange {
                what: "the source of a download",
                offset: at,
                bytes: len as u64,
                available: src.bytes(),
            },
        )?;
        dst.copy_from_slice(from);
        Ok(())
    }

    // Everything is done before the call that issued it returns, so all tickets are equivalent.
    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        Ok(Ticket { queue, value: 0 })
    }

    fn order(&self, _queue: Queue, _after: Ticket) -> Result<(), DeviceError> {
        Ok(())
    }

    fn is_done(&self, _ticket: Ticket) -> Result<bool, DeviceError> {
        Ok(true)
    }

    fn wait(&self, _ticket: Ticket) -> Result<(), DeviceError> {
        Ok(())
    }
}
