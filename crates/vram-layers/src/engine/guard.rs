//! What keeps the engine safe: one function for each wait, order, reservation and check.
//!
//! With the feature `mutations`, tests leave guards out one at a time and show that something fails. Without
//! the feature, none can be left out.

use std::sync::Arc;

use vram_device::{
    Budget, BudgetExceeded, Device, DeviceError, Lifetime, Memory, Part, Queue, Reservation, Stage, Ticket,
};

use super::slot::{Slot, Weights};
use crate::plan::compose::Planned;

/// A wait, order, reservation or check that keeps the engine safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is explained at its function
#[cfg_attr(not(feature = "mutations"), allow(unreachable_pub))] // public to tests alone
#[repr(u8)]
pub enum Guard {
    StagingWait = 1,
    KernelAfterCopy,
    KernelAfterGather,
    CopyAfterKernels,
    WorkspaceAfterKernels,
    KernelAfterInput,
    TicketOfLease,
    Quarantine,
    QuarantineWait,
    LateQuarantineWait,
    PassWait,
    Load,
    PlanOfLease,
    LastLease,
    Drain,
    Claim,
    ResidentBytes,
    RingBytes,
    WorkspaceBytes,
    SessionBytes,
    StagingBytes,
    HostBytes,
    FailedLoad,
}

impl Guard {
    /// All of them.
    #[cfg(feature = "mutations")]
    pub const ALL: [Guard; 23] = [
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
        Guard::SessionBytes,
        Guard::StagingBytes,
        Guard::HostBytes,
        Guard::FailedLoad,
    ];
}

/// Staging is rewritten or freed only after the copy out of it.
pub(super) fn settle_staging(stage: &mut Stage, device: &dyn Device) -> Result<(), DeviceError> {
    match stage.take_copy() {
        Some(copy) if holds(Guard::StagingWait) => device.wait(copy),
        _ => Ok(()),
    }
}

/// Kernels run after the copy of the weights that they read.
pub(super) fn kernels_after_weights(device: &dyn Device, copy: Option<Ticket>) -> Result<(), DeviceError> {
    kernels_after(Guard::KernelAfterCopy, device, copy)
}

/// Kernels run after the copy of the rows that were gathered.
pub(super) fn kernels_after_rows(device: &dyn Device, copy: Option<Ticket>) -> Result<(), DeviceError> {
    kernels_after(Guard::KernelAfterGather, device, copy)
}

/// Kernels run after the copy of their input. The host waits for it too, because its staging is freed.
pub(super) fn kernels_after_input(device: &dyn Device, stage: &mut Stage) -> Result<(), DeviceError> {
    let copy = stage.take_copy();
    kernels_after(Guard::KernelAfterInput, device, copy)?;
    match copy {
        Some(copy) if holds(Guard::KernelAfterInput) => device.wait(copy),
        _ => Ok(()),
    }
}

/// A slot is written, by a copy or by the host, only after the kernels that read its previous contents.
pub(super) fn fill_after_kernels(device: &dyn Device, part: &Part, staged: bool) -> Result<(), DeviceError> {
    for &ticket in part.after() {
        match (holds(Guard::CopyAfterKernels), staged) {
            (false, _) => {}
            (true, true) => device.order(Queue::Copy, ticket)?,
            (true, false) => device.wait(ticket)?,
        }
    }
    Ok(())
}

/// The workspace is written only after all kernels issued so far. Activations give their memory back without
/// a ticket, so a kernel may still use the previous contents.
pub(super) fn workspace_after_kernels(device: &dyn Device) -> Result<(), DeviceError> {
    if !holds(Guard::WorkspaceAfterKernels) {
        return Ok(());
    }
    let issued = device.ticket(Queue::Compute)?;
    match device.info().topology.memory {
        // The host writes there itself.
        Memory::Shared => device.wait(issued),
        Memory::Discrete => device.order(Queue::Copy, issued),
    }
}

/// A finished lease gives its slot back together with the ticket of its kernels.
pub(super) fn retire(weights: Weights, done: Ticket) {
    if holds(Guard::TicketOfLease) {
        weights.retire(done);
    }
}

/// Weights of a lease that was dropped without `finish` are kept until the pass is over.
pub(super) fn keep(quarantine: &mut Vec<Arc<Weights>>, weights: Arc<Weights>) {
    if holds(Guard::Quarantine) {
        quarantine.push(weights);
    }
}

/// They are given back only after all kernels.
pub(super) fn quarantine_after_kernels(
    device: &dyn Device,
    kept: &[Arc<Weights>],
) -> Result<(), DeviceError> {
    if kept.is_empty() { Ok(()) } else { wait_for_kernels(Guard::QuarantineWait, device) }
}

/// The same for a lease that was dropped after its pass.
pub(super) fn late_quarantine_after_kernels(device: &dyn Device, kept: &[Arc<Weights>]) {
    if !kept.is_empty() {
        // A device that fails here says so again at the next pass.
        let _ = wait_for_kernels(Guard::LateQuarantineWait, device);
    }
}

/// A pass ends when its kernels have ended.
pub(super) fn end_after_kernels(device: &dyn Device) -> Result<(), DeviceError> {
    wait_for_kernels(Guard::PassWait, device)
}

/// What a reader brings counts only for the load that asked for it.
pub(super) fn is_for(slot: &Slot, load: u64) -> bool {
    slot.is_load(load) || !holds(Guard::Load)
}

/// A lease of an earlier plan does not release the unit that has its number now.
pub(super) fn is_of_plan(lease: &Arc<Planned>, plan: &Arc<Planned>) -> bool {
    Arc::ptr_eq(lease, plan) || !holds(Guard::PlanOfLease)
}

/// A unit is given back when its last lease ends.
pub(super) fn was_last(leases_left: usize) -> bool {
    leases_left == 0 || !holds(Guard::LastLease)
}

/// A plan is replaced only when no reader still reads for it.
pub(super) fn is_drained(busy_readers: usize) -> bool {
    busy_readers == 0 || !holds(Guard::Drain)
}

/// One pass at a time.
pub(super) fn is_claimed(by_another: bool) -> bool {
    by_another && holds(Guard::Claim)
}

/// A failed load drops its queued reads, which would only keep its memory from the next attempt.
pub(super) fn takes_its_reads_along(failed: bool) -> bool {
    failed && holds(Guard::FailedLoad)
}

/// The next attempt waits for reads of the failed load that are in flight, because they hold its memory.
pub(super) fn waits_for_memory(busy_readers: usize) -> bool {
    busy_readers > 0 && holds(Guard::FailedLoad)
}

/// What bytes of a budget are reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Residents,
    Ring,
    Workspace,
    Session,
    Staging,
    Host,
}

/// Takes bytes out of a budget.
pub(super) fn reserve(what: For, budget: &Budget, bytes: u64) -> Result<Reservation, BudgetExceeded> {
    let (guard, lifetime) = match what {
        For::Residents => (Guard::ResidentBytes, Lifetime::Weights),
        For::Ring => (Guard::RingBytes, Lifetime::Weights),
        For::Workspace => (Guard::WorkspaceBytes, Lifetime::Pass),
        For::Session => (Guard::SessionBytes, Lifetime::Session),
        For::Staging => (Guard::StagingBytes, Lifetime::Weights),
        For::Host => (Guard::HostBytes, Lifetime::Weights),
    };
    if holds(guard) {
        budget.reserve(lifetime, bytes)
    } else {
        Budget::new(budget.tier(), u64::MAX).reserve(lifetime, bytes)
    }
}

fn kernels_after(guard: Guard, device: &dyn Device, copy: Option<Ticket>) -> Result<(), DeviceError> {
    match copy {
        Some(copy) if holds(guard) => device.order(Queue::Compute, copy),
        _ => Ok(()),
    }
}

fn wait_for_kernels(guard: Guard, device: &dyn Device) -> Result<(), DeviceError> {
    if holds(guard) { device.wait(device.ticket(Queue::Compute)?) } else { Ok(()) }
}

#[cfg(not(feature = "mutations"))]
#[inline(always)]
const fn holds(_: Guard) -> bool {
    true
}

#[cfg(feature = "mutations")]
static LEFT_OUT: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

#[cfg(feature = "mutations")]
fn holds(guard: Guard) -> bool {
    LEFT_OUT.load(std::sync::atomic::Ordering::Relaxed) != guard as u8
}

/// Leaves out a guard in the whole process, or none.
#[cfg(feature = "mutations")]
pub fn leave_out(guard: Option<Guard>) {
    LEFT_OUT.store(guard.map_or(0, |g| g as u8), std::sync::atomic::Ordering::Relaxed);
}
