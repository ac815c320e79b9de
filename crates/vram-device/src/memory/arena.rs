//! Buffers that hand out regions.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use smallvec::SmallVec;

use super::alloc::Measure;
use crate::sync::{Mutex, MutexGuard};
use crate::{Buffer, FirstFit, OffsetAlloc, Region, Reservation, RingAlloc, Ticket};

/// Memory that is allocated once and handed out many times, by a policy: [`RingAlloc`] for streamed weights,
/// [`FirstFit`] for activations. Clones share the memory.
#[derive(Clone)]
pub struct Arena(Arc<Home>);

pub(super) struct Home {
    chunks: Vec<(Range<u64>, Buffer)>,
    state: Mutex<State>,
}

struct State {
    policy: Policy,
    // Ranges given back while work still used them, oldest first.
    retired: Vec<(Range<u64>, Ticket)>,
    // Held for its Drop.
    _reservation: Option<Reservation>,
}

enum Policy {
    Ring(RingAlloc),
    FirstFit(FirstFit),
    Measure(Measure),
}

impl Policy {
    fn alloc(&mut self) -> &mut dyn OffsetAlloc {
        match self {
            Policy::Ring(a) => a,
            Policy::FirstFit(a) => a,
            Policy::Measure(a) => a,
        }
    }
}

impl Arena {
    /// A ring over the buffers in order.
    pub fn ring(chunks: Vec<Buffer>) -> Arena {
        let sizes: Vec<u64> = chunks.iter().map(Buffer::bytes).collect();
        Arena::new(chunks, Policy::Ring(RingAlloc::new(&sizes)))
    }

    /// Lowest free offset first.
    pub fn first_fit(chunks: Vec<Buffer>) -> Arena {
        let sizes: Vec<u64> = chunks.iter().map(Buffer::bytes).collect();
        Arena::new(chunks, Policy::FirstFit(FirstFit::new(&sizes)))
    }

    /// A ring of reserved bytes without memory behind them, for windows of a map. Its regions cannot be read
    /// or written.
    pub fn window(reservation: Reservation) -> Arena {
        let ring = Policy::Ring(RingAlloc::new(&[reservation.bytes()]));
        let state = State { policy: ring, retired: Vec::new(), _reservation: Some(reservation) };
        Arena(Arc::new(Home { chunks: Vec::new(), state: Mutex::new(state) }))
    }

    /// Unbounded and without memory; its regions cannot be read or written. See
    /// [`high_water`](Arena::high_water).
    pub fn measuring() -> Arena {
        Arena::measuring_within(u64::MAX)
    }

    /// The same for an arena of several buffers of `buffer` bytes, of which the last may be smaller, for
    /// devices whose [`max_allocation`](crate::DeviceInfo::max_allocation) is that size.
    pub fn measuring_within(buffer: u64) -> Arena {
        Arena::new(Vec::new(), Policy::Measure(Measure::within(buffer)))
    }

    fn new(chunks: Vec<Buffer>, policy: Policy) -> Arena {
        let mut start = 0;
        let chunks = chunks
            .into_iter()
            .map(|buffer| {
                let range = start..start + buffer.bytes();
                start = range.end;
                (range, buffer)
            })
            .collect();
        Arena(Arc::new(Home {
            chunks,
            state: Mutex::new(State { policy, retired: Vec::new(), _reservation: None }),
        }))
    }

    /// A region of `bytes` whose offset in its buffer is a multiple of `align`, a power of two; `None` if
    /// there is no room now.
    pub fn alloc(&self, bytes: u64, align: u64) -> Option<Region> {
        let mut state = self.0.state();
        let start = state.policy.alloc().alloc(bytes, align)?;
        let mut after: SmallVec<[Ticket; 2]> = SmallVec::new();
        let end = start + bytes;
        state.retired.retain(|(range, ticket)| {
            if range.start >= end || start >= range.end {
                return true;
            }
            match after.iter_mut().find(|t| t.queue == ticket.queue) {
                Some(t) => t.value = t.value.max(ticket.value),
                None => after.push(*ticket),
            }
            // A fully covered range is accounted for from now on; a remainder stays for the next allocation.
            range.start < start || range.end > end
        });
        drop(state);
        let chunk = self.0.chunks.iter().find(|(range, _)| range.contains(&start));
        let (base, memory) = match chunk {
            Some((range, buffer)) => (range.start, Some(buffer.share())),
            None => (0, None),
        };
        Some(Region::from_home(memory, start - base..end - base, Arc::clone(&self.0), start, after))
    }

    /// How many bytes a [`measuring`](Arena::measuring) arena would have needed so far; 0 for others.
    pub fn high_water(&self) -> u64 {
        match &self.0.state().policy {
            Policy::Measure(measure) => measure.high_water(),
            Policy::Ring(_) | Policy::FirstFit(_) => 0,
        }
    }

    /// Size of all buffers in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.chunks.last().map_or(0, |(range, _)| range.end)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("bytes", &self.bytes()).field("chunks", &self.0.chunks.len()).finish()
    }
}

impl Home {
    pub(super) fn release(&self, start: u64, bytes: u64, used_until: &[Ticket]) {
        let mut state = self.state();
        state.policy.alloc().free(start);
        state.retired.extend(used_until.iter().map(|&ticket| (start..start + bytes, ticket)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Allocators change in one call each and do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
