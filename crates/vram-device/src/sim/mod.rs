//! A simulated device: real bytes under a capacity, copies and kernels that run as late as their order
//! permits, a virtual clock, and injected faults.
//!
//! It answers two questions. *Is the order right?* An operation that is not [ordered](Device::order) after
//! what it needs finds poison or unrelated bytes, reliably under the right [`Lateness`].
//! [`violations`](Sim::violations) names both operations even if the result happened to be right. *How long
//! would it take?* An operation begins as soon as its queue, the operations it is ordered after and the
//! issuing thread permit, and takes the time that the [`SimProfile`] says. [`elapsed`](Sim::elapsed) and
//! [`operations`](Sim::operations) report the times.
//!
//! The memory of a `Sim` is not host-visible. An inner [`Cpu`] computes kernels, so results have exactly the
//! bits of that processor. A late operation costs extra host time and memory: its kernel is first run on
//! zeros, to see whether it refuses its operands.
//!
//! ```
//! use vram_device::sim::{Lateness, Sim, SimOptions, Violation};
//! use vram_device::{Budget, Device, Lifetime, Queue, Tier};
//!
//! let sim = Sim::new(SimOptions { lateness: Lateness::Copies, ..Default::default() })?;
//! let budget = Budget::new(Tier::Device, 1 << 20);
//! let mut staging = sim.stage(budget.reserve(Lifetime::Pass, 4)?)?;
//! staging.host_mut().copy_from_slice(&[1, 2, 3, 4]);
//! let region = sim.allocate(budget.reserve(Lifetime::Weights, 4)?)?.into_region();
//! let mut part = region.into_parts(&[])?.remove(0);
//! let copied = sim.upload(&staging, 0..4, &mut part, 0)?;
//! let region = part.finish().ok_or("the only part gives the region back")?;
//!
//! let mut bytes = [0; 4];
//! // Nothing orders the download of the region after the copy.
//! sim.download(&region, 0, &mut bytes)?;
//! assert_eq!(bytes, [0xff; 4]);
//! assert!(matches!(sim.violations()[..], [Violation::Race { .. }]));
//!
//! sim.order(Queue::Compute, copied)?;
//! sim.download(&region, 0, &mut bytes)?;
//! assert_eq!(bytes, [1, 2, 3, 4]);
//! println!("{} of virtual time, {:?}", sim.elapsed().as_secs_f64(), sim.operations());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
mod faults;
mod kernels;
mod memory;
mod profile;
mod queue;
mod race;
mod source;
mod trace;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use faults::Fault;
pub use memory::SimUsage;
pub use profile::{Cost, SimProfile};
pub use race::{Access, Violation};
pub use source::{DiskFault, DiskProfile, DiskUsage, SimSource};
pub use trace::{OpKind, Operation};

use crate::cpu::{Cpu, CpuOptions};
use crate::{
    Budget, Buffer, Device, DeviceError, DeviceInfo, Execution, Lifetime, MemoryInfo, Part, Queue, Region,
    Reservation, Staging, Ticket, Tier, Topology,
};
use faults::Faults;
use memory::{Ledger, Memory, POISON, SimBuffer, SimStaging, Span};
use profile::nanoseconds;
use queue::{Issue, Queues, Work};

/// Which operations run late: only when an operation that is ordered after them forces them. The others run
/// when they are issued, which forces what they are ordered after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lateness {
    /// None: the cheapest to simulate.
    #[default]
    Nothing,
    /// Copies. A kernel that is not ordered after its copy finds the previous contents.
    Copies,
    /// Kernels. A copy that is not ordered after the kernels that read its target overwrites it before they
    /// have run.
    Kernels,
    /// Each operation by a hash of this seed, its queue and its position there, whatever thread issues it.
    Seeded(u64),
}

impl Lateness {
    fn is_late(self, queue: Queue, operation: u64) -> bool {
        match self {
            Lateness::Nothing => false,
            Lateness::Copies => queue == Queue::Copy,
            Lateness::Kernels => queue == Queue::Compute,
            Lateness::Seeded(seed) => {
                // splitmix64
                let mut z = seed ^ (operation * 2 + u64::from(queue == Queue::Copy));
                z = z.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) & 1 == 1
            }
        }
    }
}

/// Whether copies run concurrently with kernels. There is no shared-memory variant: what the host writes in
/// place cannot be late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimTopology {
    /// Copies have their own queue.
    #[default]
    SeparateCopyQueue,
    /// Copies and kernels run one after the other in the order in which they were issued.
    OneQueue,
}

/// Options of a [`Sim`].
#[derive(Clone, Debug, Default)]
pub struct SimOptions {
    /// Memory and speeds.
    pub profile: SimProfile,
    /// Queues.
    pub topology: SimTopology,
    /// What runs late.
    pub lateness: Lateness,
    /// Faults to inject.
    pub faults: Vec<Fault>,
    /// The processor that computes kernels.
    pub cpu: CpuOptions,
}

/// The simulated device; see the [module](self).
///
/// Operations run on the threads that force them, one at a time. Every operation is remembered, in about 60
/// bytes each.
pub struct Sim {
    id: u64,
    info: DeviceInfo,
    profile: SimProfile,
    cpu: Arc<Cpu>,
    next_buffer: AtomicU64,
    ledger: Arc<Ledger>,
    // Lock order: this, then a memory's, then the ledger's.
    queues: Mutex<Queues>,
}

impl Sim {
    /// Starts the inner CPU.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] for a speed that is not a positive number; see also [`Cpu::new`].
    pub fn new(options: SimOptions) -> Result<Sim, DeviceError> {
        Sim::over(Arc::new(Cpu::new(options.cpu.clone())?), options)
    }

    /// Computes on a CPU device that others may use as well; the CPU options are ignored.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] for a speed that is not a positive number.
    pub fn over(cpu: Arc<Cpu>, options: SimOptions) -> Result<Sim, DeviceError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let SimOptions { profile, topology, lateness, faults, .. } = options;
        profile.check()?;
        // Not 0, which is in the tickets of devices that count from there. 24 bits are left beside the count.
        let id = NEXT.fetch_add(1, Ordering::Relaxed) % ((1 << 24) - 1) + 1;
        let separate = topology == SimTopology::SeparateCopyQueue;
        let memory = vram_types::ByteSize(profile.memory_bytes);
        let info = DeviceInfo {
            backend: "sim",
            name: format!("{memory}, {topology:?}, late: {lateness:?}, on {}", cpu.info().name),
            topology: Topology {
                memory: crate::Memory::Discrete,
                kernels: Execution::Queued,
                separate_copy_queue: separate,
            },
            alignment: 256,
            max_allocation: profile.memory_bytes.max(1),
        };
        let queues = Mutex::new(Queues::new(id, lateness, !separate, Faults::new(faults)));
        let next_buffer = AtomicU64::new(1);
        Ok(Sim { id, info, profile, cpu, next_buffer, ledger: Arc::default(), queues })
    }

    /// Replaces the declared faults; positions are counted anew from here.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        self.lock().faults = Faults::new(faults);
    }

    /// Runs everything that was issued, on the calling thread. This orders nothing: the host does not know
    /// about it.
    pub fn run_all(&self) {
        self.lock().run_all();
    }

    /// Violations found so far, in the order of issue.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// What callers hold.
    pub fn usage(&self) -> SimUsage {
        self.ledger.held()
    }

    /// The end of the last operation, in virtual time.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.lock().end())
    }

    /// All operations: the copy queue's in order, then the compute queue's.
    pub fn operations(&self) -> Vec<Operation> {
        self.lock().operations()
    }

    /// The calling thread's virtual time: the end of the last thing it waited for.
    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.lock().threads.now())
    }

    /// Advances the calling thread's virtual time, as work on the host would; what it issues afterwards
    /// begins no earlier. Time does not go back.
    pub fn advance_to(&self, time: Duration) {
        self.lock().threads.reach(nanoseconds(time));
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // A user's kernel may panic. The operation then counts as run, and its output is unspecified.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes `range`, counted from the region's beginning.
    fn span(&self, what: &'static str, region: &Region, range: Range<u64>) -> Result<Span, DeviceError> {
        let raw = region.buffer().and_then(|b| b.raw().as_any().downcast_ref::<SimBuffer>());
        let bytes = range.end.saturating_sub(range.start);
        match raw.filter(|raw| raw.device == self.id) {
            Some(raw) if range.start <= range.end && range.end <= region.bytes() => {
                let at = region.offset();
                Ok(Span { memory: Arc::clone(&raw.memory), range: at + range.start..at + range.end })
            }
            // No part of it is on this device.
            None => Err(DeviceError::OutOfRange { what, offset: range.start, bytes, available: 0 }),
            Some(_) => {
                Err(DeviceError::OutOfRange { what, offset: range.start, bytes, available: region.bytes() })
            }
        }
    }

    fn staging<'a>(&self, src: &'a Staging) -> Option<&'a SimStaging> {
        let raw = src.region().buffer()?.raw().as_any().downcast_ref::<SimStaging>()?;
        (raw.device == self.id).then_some(raw)
    }

    fn name_buffer(&self) -> u64 {
        self.next_buffer.fetch_add(1, Ordering::Relaxed)
    }
}

/// The end of `bytes` bytes from `at` on, in memory of `available` bytes.
fn end(what: &'static str, at: u64, bytes: u64, available: u64) -> Result<u64, DeviceError> {
    let outside = DeviceError::OutOfRange { what, offset: at, bytes, available };
    at.checked_add(bytes).filter(|&end| end <= available).ok_or(outside)
}

impl Device for Sim {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        let total = self.profile.memory_bytes;
        Ok(MemoryInfo { free: total.saturating_sub(self.ledger.taken()), total })
    }

    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError> {
        let (bytes, capacity) = (reservation.bytes(), self.profile.memory_bytes);
        let mut queues = self.lock();
        queues.alive()?;
        queues.faults.allocation(bytes)?;
        if bytes > capacity.saturating_sub(self.ledger.taken()) {
            // Dropped buffers are freed after the operations that use them.
            queues.run_all();
        }
        let memory = Memory::new(self.name_buffer(), bytes, &self.ledger, capacity)
            .map_err(|reason| DeviceError::OutOfMemory { bytes, reason })?;
        Ok(Buffer::new(Box::new(SimBuffer::new(self.id, memory)), reservation))
    }

    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError> {
        let mut queues = self.lock();
        queues.alive()?;
        queues.faults.allocation(reservation.bytes())?;
        drop(queues);
        // The caller's reservation belongs to the staging; the pages below need another one.
        let unlimited = Budget::new(Tier::Host, u64::MAX);
        let pages = self.cpu.allocate(unlimited.reserve(Lifetime::Pass, reservation.bytes())?)?;
        let raw = SimStaging::new(self.id, self.name_buffer(), pages, &self.ledger);
        let staging = Staging::new(Buffer::new(Box::new(raw), reservation));
        let mut staging = staging.ok_or_else(|| DeviceError::Unavailable {
            what: "staging".into(),
            reason: "the processor's pages are not host-visible".into(),
        })?;
        staging.host_mut().fill(POISON);
        Ok(staging)
    }

    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError> {
        const FROM: &str = "the source of an upload";
        const TO: &str = "the target of an upload";
        let bytes = range.end.saturating_sub(range.start);
        let outside =
            |available| DeviceError::OutOfRange { what: FROM, offset: range.start, bytes, available };
        let staging = self.staging(src).ok_or_else(|| outside(0))?;
        let host = src.region().host().unwrap_or_default();
        let indices = range.start as usize..range.end as usize;
        let from = host.get(indices).ok_or_else(|| outside(src.bytes()))?.to_vec();
        let part = dst.range();
        let end = end(TO, at, bytes, part.end - part.start)?;
        let to = self.span(TO, dst.region(), part.start + at..part.start + end)?;
        let mut queues = self.lock();
        queues.alive()?;
        queues.look(staging.id, host);
        queues.faults.upload()?;
        let work = Work::Upload { bytes: from, to };
        let ns = self.profile.copy_ns(bytes);
        let ticket = queues.issue(Issue { queue: Queue::Copy, kind: OpKind::Upload, ns, work })?;
        queues.remember(staging.id, range, host, ticket);
        Ok(ticket)
    }

    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError> {
        const FROM: &str = "the source of a download";
        let bytes = dst.len() as u64;
        let from = self.span(FROM, src, at..end(FROM, at, bytes, src.bytes())?)?;
        let mut queues = self.lock();
        let work = Work::Download { from: from.clone() };
        let ns = self.profile.copy_ns(bytes);
        let ticket = queues.issue(Issue { queue: Queue::Compute, kind: OpKind::Download, ns, work })?;
        dst.copy_from_slice(&from.read());
        queues.wait(ticket)
    }

    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        self.lock().ticket(queue)
    }

    fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        self.lock().order(queue, after)
    }

    fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        self.lock().is_done(ticket)
    }

    fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        self.lock().wait(ticket)
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("name", &self.info.name).field("usage", &self.usage()).finish()
    }
}
