//! The core of the backend: the context, its two streams with their events, memory that is given back, and whether the
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

/// Bytes of the card that are held beside what was allocated, as far as could be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaReserve {
    /// What the driver's own context takes, and whatever else is on the card: what was not free before anything of this
    /// backend was there. The driver tells no more.
    pub before: u64,
    /// Streams, loaded kernels and libraries so far.
    pub libraries: u64,
    /// What matrix products work in.
    pub workspace: u64,
}

/// Holds something of the driver's that goes before the context does.
pub(super) trait AtEnd: Send + Sync {
    /// Lets go of it. Called once, with the context current and nothing under way; or never, where the device is lost.
    fn end(&self);
}

pub(super) struct Context {
    pub(super) id: u64,
    // Order of locks: those of what is built on this, then `freed`, then those of `copy`, then those of `compute`.
    ctx: ManuallyDrop<Ctx>,
    copy: ManuallyDrop<Timeline>,
    compute: ManuallyDrop<Timeline>,
    events: Events,
    /// What else holds something of the driver's.
    parts: Mutex<Vec<Arc<dyn AtEnd>>>,
    /// Memory that was given back while work may still use it, with a mark of either stream behind which it is free.
    freed: Mutex<VecDeque<(u64, u64, Freed)>>,
    lost: OnceLock<String>,
    reserve: Mutex<CudaReserve>,
    notes: Mutex<Vec<String>>,
}

impl Context {
    /// Over a context that is current, and its streams.
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

    /// Has a part end before the context does. It must not keep the context itself.
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

    /// Calls the driver, unless the device is lost, with the context current; and notes a loss.
    pub(super) fn with<T>(&self, call: impl FnOnce() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        if let Some(reason) = self.lost.get() {
            return Err(DeviceError::Lost { reason: reason.clone() });
        }
        let result = self.ctx.enter().and_then(|()| call());
        if let Err(DeviceError::Lost { reason }) = &result {
            // The first to notice says why.
            let _ = self.lost.set(reason.clone());
        }
        result
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Issues work and gives a ticket for it.
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
            let reason = format!("{ticket:?} is not of this device");
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

    /// Frees memory behind all that was issued so far. Never fails: what cannot be freed is left to the driver.
    pub(super) fn free(&self, freed: Freed) {
        // After a loss the driver is not called any more. It takes all back when the process ends.
        let _ = self.with(|| {
            let mark = |timeline: &Timeline| timeline.mark(&self.events, |_| Ok(()));
            let (copy, compute) = (mark(&self.copy)?, mark(&self.compute)?);
            self.freed.lock().unwrap_or_else(PoisonError::into_inner).push_back((copy, compute, freed));
            Ok(())
        });
        let _ = self.sweep(|_| false);
    }

    /// Frees what is not in use any more, and waits for what `wait_for` says.
    fn sweep(&self, wait_for: impl Fn(&Freed) -> bool) -> Result<(), DeviceError> {
        let mut owners = Vec::new();
        let result = self.with(|| self.free_done(wait_for, &mut owners));
        // Last, without a lock: dropping one is the caller's code, which may give back more memory or change the current context.
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
                // SAFETY: `Freed` is made once for each allocation, when it is dropped, and what was issued until then, the last
                // that can have used it, is done.
                true => owners.extend(unsafe { freed.now() }?),
                false => all.push_back((copy, compute, freed)),
            }
        }
        Ok(())
    }

    /// Waits until what was given back is free, as the budget believes it is: device memory, or else pinned.
    pub(super) fn reclaim(&self, device: bool) -> Result<(), DeviceError> {
        self.sweep(|freed| freed.is_device() == device)
    }

    pub(super) fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.sweep(|_| false)?;
        let (free, total) = self.with(|| self.ctx.memory())?;
        Ok(MemoryInfo { free, total })
    }

    /// Does what takes memory of the driver's own, and adds to the reserve what it took.
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

    /// Keeps what a person should know, once.
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
            // The driver is not called any more, and a handle of the caller's neither: it would call it.
            std::mem::forget((ctx, copy, compute));
            return;
        }
        self.parts.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|part| part.end());
        let mut owners = Vec::new();
        for (_, _, freed) in self.freed.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // SAFETY: as in `free_done`; nothing is under way. Nobody is left to tell of an error.
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
