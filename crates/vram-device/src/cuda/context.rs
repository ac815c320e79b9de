//! The core of the backend: the context, its two streams with their events, freed memory, and whether the
//! device is lost. It knows nothing of what is built on it.

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::driver::{Ctx, Stream};
use super::freed::{Freed, Owner};
use super::guard::{Guard, guard};
use super::queue::{Events, Timeline};
use crate::{DeviceError, MemoryInfo, Queue, Ticket};

/// Bits of a ticket's value that count marks; those above name the device.
const COUNT_BITS: u32 = 40;

/// Device memory held besides allocations, as far as it could be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaReserve {
    /// Taken by the driver's own context and anything else on the card: what was not free before this backend
    /// allocated anything. The driver reports no more detail.
    pub before: u64,
    /// Streams, loaded kernels and libraries so far.
    pub libraries: u64,
    /// The workspace of matrix products.
    pub workspace: u64,
}

/// Owns driver objects that must be destroyed before the context.
pub(super) trait AtEnd: Send + Sync {
    /// Destroys them. Called once, with the context current and no work in flight; never called if the device
    /// is lost.
    fn end(&self);
}

pub(super) struct Context {
    pub(super) id: u64,
    // Lock order: locks of what is built on this, then `freed`, then those of `copy`, then those of
    // `compute`.
    ctx: ManuallyDrop<Ctx>,
    copy: ManuallyDrop<Timeline>,
    compute: ManuallyDrop<Timeline>,
    events: Events,
    /// Other owners of driver objects.
    parts: Mutex<Vec<Arc<dyn AtEnd>>>,
    /// Memory that was given back while work may still use it, with a mark of each stream after which it is
    /// free.
    freed: Mutex<VecDeque<(u64, u64, Freed)>>,
    lost: OnceLock<String>,
    reserve: Mutex<CudaReserve>,
    notes: Mutex<Vec<String>>,
}

impl Context {
    /// Takes a current context and its streams.
    pub(super) fn new(ctx: Ctx, copy: Stream, compute: Stream, before: u64) -> Context {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Context {
            id: NEXT.fetch_add(1, Ordering::Relaxed) % ((1 << 23) - 1) + 1,
            ctx: ManuallyDrop::new(ctx),
            copy: ManuallyDrop::new(Timeline::new(copy)),
            compute: ManuallyDrop::new(Timeline::new(compute)),
            events: Events::default(),
            parts: Mutex::default(),
            freed: Mutex::new(VecDeque::new()),
            lost: OnceLock::new(),
            reserve: Mutex::new(CudaReserve { before, ..CudaReserve::default() }),
            notes: Mutex::new(Vec::new()),
        }
    }

    /// Registers a part that must end before the context does. It must not keep the context alive.
    pub(super) fn at_end(&self, part: Arc<dyn AtEnd>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }

    pub(super) fn ctx(&self) -> &Ctx {
        &self.ctx
    }

    pub(super) fn timeline(&self, queue: Queue) -> &Timeline {
        match queue {
            Queue::Copy => &self.copy,
            Queue::Compute => &self.compute,
        }
    }

    /// Calls the driver with the context current, unless the device is lost; records a loss.
    pub(super) fn with<T>(&self, call: impl FnOnce() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        if let Some(reason) = self.lost.get() {
            return Err(DeviceError::Lost { reason: reason.clone() });
        }
        let result = self.ctx.enter().and_then(|()| call());
        if let Err(DeviceError::Lost { reason }) = &result {
            // The first to notice gives the reason.
            let _ = self.lost.set(reason.clone());
        }
        result
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Issues work and returns a ticket for it.
    pub(super) fn issue(
        &self,
        queue: Queue,
        work: impl FnOnce(&Stream) -> Result<(), DeviceError>,
    ) -> Result<Ticket, DeviceError> {
        let value = self.with(|| self.timeline(queue).mark(&self.events, work))?;
        Ok(Ticket { queue, value: self.id << COUNT_BITS | value })
    }

    fn value(&self, ticket: Ticket) -> Result<u64, DeviceError> {
        let value = ticket.value & ((1 << COUNT_BITS) - 1);
        if ticket.value >> COUNT_BITS != self.id || value > self.timeline(ticket.queue).last() {
            let reason = format!("{ticket:?} belongs to another device");
            return Err(DeviceError::Failed { what: "a ticket", reason });
        }
        Ok(value)
    }

    pub(super) fn order(&self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        let value = self.value(after)?;
        self.with(|| {
            // Work of one stream is in order anyway.
            if after.queue == queue {
                return Ok(());
            }
            self.timeline(after.queue).precede(value, &self.timeline(queue).stream)
        })
    }

    pub(super) fn is_done(&self, ticket: Ticket) -> Result<bool, DeviceError> {
        let value = self.value(ticket)?;
        self.with(|| self.timeline(ticket.queue).is_done(&self.events, value))
    }

    pub(super) fn wait(&self, ticket: Ticket) -> Result<(), DeviceError> {
        let value = self.value(ticket)?;
        self.with(|| self.timeline(ticket.queue).wait(&self.events, value))
    }

    /// Frees memory after everything issued so far. Never fails: memory that cannot be freed is left to the
    /// driver.
    pub(super) fn free(&self, freed: Freed) {
        // After a loss the driver is not called any more. It takes everything back when the process ends.
        let _ = self.with(|| {
            let mark = |timeline: &Timeline| timeline.mark(&self.events, |_| Ok(()));
            let (copy, compute) = (mark(&self.copy)?, mark(&self.compute)?);
            self.freed.lock().unwrap_or_else(PoisonError::into_inner).push_back((copy, compute, freed));
            Ok(())
        });
        let _ = self.sweep(|_| false);
    }

    /// Frees what is no longer in use, and waits for the entries that `wait_for` selects.
    fn sweep(&self, wait_for: impl Fn(&Freed) -> bool) -> Result<(), DeviceError> {
        let mut owners = Vec::new();
        let result = self.with(|| self.free_done(wait_for, &mut owners));
        // Last, and without a lock: dropping an owner runs caller code, which may give back more memory or
        // change the current context.
        drop(owners);
        result
    }

    fn free_done(
        &self,
        wait_for: impl Fn(&Freed) -> bool,
        owners: &mut Vec<Owner>,
    ) -> Result<(), DeviceError> {
        let mut all = self.freed.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..all.len() {
            let Some((copy, compute, freed)) = all.pop_front() else { break };
            let done = if !guard(Guard::FreeBehind) {
                true
            } else if wait_for(&freed) {
                self.copy.wait(&self.events, copy)?;
                self.compute.wait(&self.events, compute)?;
                true
            } else {
                self.copy.is_done(&self.events, copy)? && self.compute.is_done(&self.events, compute)?
            };
            match done {
                // SAFETY: `Freed` is made once for each allocation, when it is dropped, and the work issued
                // until then, the last that can have used it, is done.
                // that can have used it, is done.
                true => owners.extend(unsafe { freed.now() }?),
                false => all.push_back((copy, compute, freed)),
            }
        }
        Ok(())
    }

    /// Waits until memory that was given back is actually free, as the budget assumes: device memory, or else
    /// pinned memory.
    pub(super) fn reclaim(&self, device: bool) -> Result<(), DeviceError> {
        self.sweep(|freed| freed.is_device() == device)
    }

    pub(super) fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.sweep(|_| false)?;
        let (free, total) = self.with(|| self.ctx.memory())?;
        Ok(MemoryInfo { free, total })
    }

    /// Runs `work`, which allocates driver memory, and adds its size to the reserve.
    pub(super) fn measured<T>(
        &self,
        into: fn(&mut CudaReserve) -> &mut u64,
        work: impl FnOnce() -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        let (before, _) = self.ctx.memory()?;
        let result = work()?;
        let (after, _) = self.ctx.memory()?;
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        *into(&mut reserve) += before.saturating_sub(after);
        Ok(result)
    }

    pub(super) fn reserve(&self) -> CudaReserve {
        *self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a note for the user, once.
    pub(super) fn note(&self, note: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    pub(super) fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: taken once, here, and not used again.
        let (ctx, copy, compute) = unsafe {
            (
                ManuallyDrop::take(&mut self.ctx),
                ManuallyDrop::take(&mut self.copy),
                ManuallyDrop::take(&mut self.compute),
            )
        };
        let idle = |timeline: &Timeline| timeline.stream.synchronize().is_ok();
        if self.lost.get().is_some() || ctx.enter().is_err() || !idle(&copy) || !idle(&compute) {
            // The driver must not be called any more, so the caller's handles are not dropped either: that
            // would call it.
            std::mem::forget((ctx, copy, compute));
            return;
        }
        self.parts.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|part| part.end());
        let mut owners = Vec::new();
        for (_, _, freed) in self.freed.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // SAFETY: as in `free_done`; no work is in flight. An error has no one to go to.
            owners.extend(unsafe { freed.now() }.ok().flatten());
        }
        copy.destroy(&self.events);
        compute.destroy(&self.events);
        self.events.destroy();
        ctx.destroy();
        // Last, because dropping them may make another context current.
        drop(owners);
    }
}
