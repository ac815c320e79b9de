//! Switches for tests alone: one for each wait, order, reservation and check that keeps the engine safe, so that a test
//! can leave it out and show that it is missed. Without the feature `mutations` every guard is constantly there.

use vram_device::Budget;

/// Something that keeps the engine safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is explained by the sentence beside the place that it guards
#[cfg_attr(not(feature = "mutations"), allow(unreachable_pub))] // public to tests alone
#[repr(u8)]
pub enum Guard {
    /// Staging is written again only after the copy out of it.
    StagingWait = 1,
    /// Kernels come after the copy of the weights that they read.
    KernelAfterCopy,
    /// Kernels come after the copy of the rows that were gathered.
    KernelAfterGather,
    /// A slot is overwritten only after the kernels that read what was there before.
    CopyAfterKernels,
    /// Gathered rows and inputs are written only after the kernels that used the same workspace.
    WorkspaceAfterKernels,
    /// Kernels come after the copy of their input.
    KernelAfterInput,
    /// A finished lease gives its slot back together with the ticket of its kernels.
    TicketOfLease,
    /// A lease that was merely dropped is not given back before its pass is over.
    Quarantine,
    /// ... and then only after all kernels.
    QuarantineWait,
    /// ... and the same for a lease that was dropped after its pass.
    LateQuarantineWait,
    /// A pass ends when its kernels have.
    PassWait,
    /// What a reader brings counts only for the load that asked for it.
    Load,
    /// A lease of another plan does not release the unit that has its number now.
    PlanOfLease,
    /// A unit is given back when its last lease ends, and not its first.
    LastLease,
    /// A plan is replaced only when no reader is reading for it any more.
    Drain,
    /// One pass at a time.
    Claim,
    /// Residents are taken from the budget.
    ResidentBytes,
    /// The ring is taken from the budget.
    RingBytes,
    /// Activations are taken from the budget.
    WorkspaceBytes,
    /// Staging is taken from the host budget.
    StagingBytes,
    /// Weights that wait in host memory are taken from its budget.
    HostBytes,
    /// A failed load takes its queued reads along, and the next waits for those that are under way.
    FailedLoad,
}

impl Guard {
    /// All of them.
    #[cfg(feature = "mutations")]
    pub const ALL: [Guard; 22] = [
        Guard::StagingWait,
        Guard::KernelAfterCopy,
        Guard::KernelAfterGather,
        Guard::CopyAfterKernels,
        Guard::WorkspaceAfterKernels,
        Guard::KernelAfterInput,
        Guard::TicketOfLease,
        Guard::Quarantine,
        Guard::QuarantineWait,
        Guard::LateQuarantineWait,
        Guard::PassWait,
        Guard::Load,
        Guard::PlanOfLease,
        Guard::LastLease,
        Guard::Drain,
        Guard::Claim,
        Guard::ResidentBytes,
        Guard::RingBytes,
        Guard::WorkspaceBytes,
        Guard::StagingBytes,
        Guard::HostBytes,
        Guard::FailedLoad,
    ];
}

/// The budget, or one without end where the guard is left out.
pub(crate) fn charged(which: Guard, budget: &Budget) -> Budget {
    if guard(which) { budget.clone() } else { Budget::new(budget.tier(), u64::MAX) }
}

/// Whether the guard is there.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub(crate) const fn guard(_: Guard) -> bool {
    true
}

#[cfg(feature = "mutations")]
static LEFT_OUT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Whether the guard is there.
#[cfg(feature = "mutations")]
pub(crate) fn guard(guard: Guard) -> bool {
    LEFT_OUT.load(std::sync::atomic::Ordering::Relaxed) != guard as u8
}

/// Leaves a guard out in the whole process, or none.
#[cfg(feature = "mutations")]
pub fn leave_out(guard: Option<Guard>) {
    LEFT_OUT.store(guard.map_or(0, |g| g as u8), std::sync::atomic::Ordering::Relaxed);
}
