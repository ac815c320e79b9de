//! The trait that a backend implements to hold memory and keep order.

use std::fmt;
use std::ops::Range;

use crate::{Buffer, DeviceError, Part, Region, Reservation, Staging};

/// How a device's memory and queues relate to the host. The planner uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Whether kernels read host memory.
    pub memory: Memory,
    /// When kernels run.
    pub kernels: Execution,
    /// Whether copies run concurrently with kernels. If not, the bound of a pass is the sum of both instead
    /// of the larger.
    pub separate_copy_queue: bool,
}

/// Whether kernels read the memory that host threads write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Memory {
    /// Yes: readers fill slots in place. There is no host tier, because what waits in host memory is already
    /// on the device.
    Shared,
    /// No: weights are staged and copied, and some can wait in host memory.
    Discrete,
}

/// Whether a kernel is done when the call that issued it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Execution {
    /// Yes.
    Inline,
    /// Not necessarily. A host that needs its result, or the time it took, waits for a ticket.
    Queued,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Memory::Shared => "shared",
            Memory::Discrete => "discrete",
        })
    }
}

impl fmt::Display for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Execution::Inline => "inline",
            Execution::Queued => "queued",
        })
    }
}

/// Description of a device.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// Short name of the backend, as `--device` takes it.
    pub backend: &'static str,
    /// Display name: model, cores, instruction set.
    pub name: String,
    /// Memory and queues.
    pub topology: Topology,
    /// Alignment of allocations in bytes, a power of two.
    pub alignment: u64,
    /// The largest single allocation in bytes.
    pub max_allocation: u64,
}

/// Memory of the device, as reported by the driver or system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that could be allocated now.
    pub free: u64,
    /// Total bytes.
    pub total: u64,
}

/// A sequence of work that the device runs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// Copies to the device.
    Copy,
    /// Kernels.
    Compute,
}

/// A point in a queue: everything issued to `queue` up to `value`. Waiting for it orders work on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The queue.
    pub queue: Queue,
    /// Its position, which grows with every operation.
    pub value: u64,
}

/// Memory, copies and order on one device. Calls are coarse and object-safe, and none waits for the device
/// unless its documentation says so.
pub trait Device: Send + Sync + fmt::Debug {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// Free and total memory, as reported by the driver.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] with the reason if the backend cannot tell.
    fn memory(&self) -> Result<MemoryInfo, DeviceError>;

    /// Allocates `reservation.bytes()` bytes, which are unspecified until written. The buffer keeps the
    /// reservation. It may be dropped while copies and kernels that use it are in flight: the backend frees
    /// it after them.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn allocate(&self, reservation: Reservation) -> Result<Buffer, DeviceError>;

    /// Allocates host memory that the device can read from asynchronously.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn stage(&self, reservation: Reservation) -> Result<Staging, DeviceError>;

    /// Issues a copy of `src[range]` to byte `at` of a part on the copy queue. `src` may be written again
    /// once the ticket is done.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`DeviceError::Lost`].
    fn upload(
        &self,
        src: &Staging,
        range: Range<u64>,
        dst: &mut Part,
        at: u64,
    ) -> Result<Ticket, DeviceError>;

    /// Waits for the compute queue and copies `src` from byte `at` into host memory.
    ///
    /// # Errors
    /// [`DeviceError::OutOfRange`], [`DeviceError::Lost`].
    fn download(&self, src: &Region, at: u64, dst: &mut [u8]) -> Result<(), DeviceError>;

    /// A ticket for everything issued to the queue so far.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError>;

    /// Makes work issued to `queue` from now on start after the ticket is done. The host does not wait.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError>;

    /// Whether the ticket is done, without waiting.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError>;

    /// Blocks the host until the ticket is done.
    ///
    /// # Errors
    /// [`DeviceError::Lost`].
    fn wait(&self, ticket: Ticket) -> Result<(), DeviceError>;
}
