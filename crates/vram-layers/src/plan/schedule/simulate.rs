//! Simulates a schedule on a model of the machine.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use vram_device::{OffsetAlloc, RingAlloc};

use super::problem::{Problem, Residency};

/// At most this many chunks of a unit are told apart.
const CHUNKS: u64 = 16;

/// One fetch of a unit into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The use that it is for; uses are counted through all passes, from 0.
    pub position: u64,
    /// The unit.
    pub unit: usize,
    /// Offset in the ring in bytes.
    pub at: u64,
    /// How many uses must have given their slots back before the fetch is issued.
    pub after: u64,
}

/// The result of a simulation; times are in nanoseconds since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// When the last kernel of each pass ended.
    pub ends: Vec<u64>,
    /// Everything that went through the ring, in order.
    pub fetches: Vec<Fetch>,
    /// How long kernels waited for weights, by unit, over all passes but the first.
    pub stalls: Vec<u64>,
}

impl Timeline {
    /// The time of a pass in the steady state: the mean over the later half.
    pub fn steady(&self) -> u64 {
        let last = self.ends.len().saturating_sub(1);
        let from = last / 2;
        match (self.ends.get(from), self.ends.get(last)) {
            (Some(start), Some(end)) if last > from => (end - start) / (last - from) as u64,
            (_, Some(end)) => *end,
            _ => 0,
        }
    }

    /// The time of the first pass, which loads what stays and finds nothing read ahead.
    pub fn first(&self) -> u64 {
        self.ends.first().copied().unwrap_or(0)
    }
}

/// Simulates `passes` passes back to back with a ring of `ring_bytes`. What stays is loaded when it is first
/// used. `None` if a unit that passes through the ring is larger than it.
pub fn simulate(problem: &Problem, kept: &[Residency], ring_bytes: u64, passes: usize) -> Option<Timeline> {
    simulate_listing(problem, kept, ring_bytes, passes, passes + 1)
}

/// The same, but lists the fetches of the first `listed` passes only: with many units the full list is long.
pub(crate) fn simulate_listing(
    problem: &Problem,
    kept: &[Residency],
    ring_bytes: u64,
    passes: usize,
    listed: usize,
) -> Option<Timeline> {
    play(problem, kept, ring_bytes, passes, listed).map(|run| run.out)
}

/// The time of a pass in the steady state, and the steps that it took to find it.
pub(super) fn steady(
    problem: &Problem,
    kept: &[Residency],
    ring_bytes: u64,
    passes: usize,
) -> Option<(u64, u64)> {
    play(problem, kept, ring_bytes, passes, 0).map(|run| (run.out.steady(), run.steps))
}

fn play<'a>(
    problem: &'a Problem,
    kept: &'a [Residency],
    ring_bytes: u64,
    passes: usize,
    listed: usize,
) -> Option<Run<'a>> {
    let largest = problem
        .trace
        .iter()
        .filter(|&&u| kept[u] != Residency::Device)
        .map(|&u| problem.units[u].bytes)
        .max();
    if largest.is_some_and(|bytes| bytes > ring_bytes) {
        return None;
    }
    let mut run = Run::new(problem, kept, ring_bytes, passes, listed);
    while run.used < run.total {
        run.step();
    }
    Some(run)
}

/// A fetch that has been given its place.
struct Slot {
    position: u64,
    /// Offset in the ring; `None` for a unit that stays.
    at: Option<u64>,
    /// Chunks still to be moved, and what one of them takes on each link.
    left: u64,
    disk: u64,
    bus: u64,
    /// When the last moved chunk arrived on the device, and when its copy was issued.
    arrived: u64,
    issued: u64,
}

struct Run<'a> {
    problem: &'a Problem,
    kept: &'a [Residency],
    /// Uses to compute. What comes after them is fetched ahead, as in any pass.
    total: u64,
    /// Uses whose fetches are listed.
    listed: u64,
    /// Chunks moved and uses computed.
    steps: u64,
    ring: RingAlloc,
    slots: VecDeque<Slot>,
    /// How many of the slots, from the front, are complete: they are filled in order.
    moved: usize,
    /// Units that have been read once.
    read: Vec<bool>,
    /// The next use whose unit has no place yet, and the next use to compute.
    next: u64,
    used: u64,
    /// When room was last given back, and when its kernels were done.
    room_at: u64,
    room_done: u64,
    disk_free: u64,
    bus_free: u64,
    compute_free: u64,
    host: u64,
    /// When each staged chunk is on the device, oldest first.
    staged: VecDeque<u64>,
    staging_chunks: usize,
    out: Timeline,
}

impl<'a> Run<'a> {
    fn new(
        problem: &'a Problem,
        kept: &'a [Residency],
        ring_bytes: u64,
        passes: usize,
        listed: usize,
    ) -> Run<'a> {
        let chunk = problem.machine.chunk.max(1);
        Run {
            problem,
            kept,
            total: (problem.trace.len() * passes) as u64,
            listed: (problem.trace.len() * listed) as u64,
            steps: 0,
            ring: RingAlloc::new(&[ring_bytes]),
            slots: VecDeque::new(),
            moved: 0,
            read: vec![false; problem.units.len()],
            next: 0,
            used: 0,
            room_at: 0,
            room_done: 0,
            disk_free: 0,
            bus_free: 0,
            compute_free: 0,
            host: 0,
            staged: VecDeque::new(),
            staging_chunks: usize::try_from(problem.machine.staging / chunk).unwrap_or(usize::MAX).max(1),
            out: Timeline { stalls: vec![0; problem.units.len()], ..Timeline::default() },
        }
    }

    fn unit(&self, position: u64) -> usize {
        self.problem.trace[(position % self.problem.trace.len() as u64) as usize]
    }

    /// Moves one chunk or computes one use.
    fn step(&mut self) {
        self.place();
        self.steps += 1;
        let moving = Some(self.moved).filter(|moved| *moved < self.slots.len());
        let unit = self.unit(self.used);
        let front = self.slots.front().filter(|s| s.position == self.used);
        let waits = match front {
            Some(slot) => slot.left > 0,
            None => self.kept[unit] != Residency::Device,
        };
        match moving {
            Some(slot) if waits || self.comes_first(slot) => self.move_chunk(slot),
            _ => self.compute(unit),
        }
    }

    /// Whether a chunk is issued before the next kernels, which are ready. With separate queues the order
    /// makes no difference.
    fn comes_first(&self, slot: usize) -> bool {
        if !self.problem.machine.one_queue {
            return true;
        }
        let front = self.slots.front().filter(|s| s.position == self.used).map_or(0, |s| s.issued);
        self.read_end(slot) < self.host.max(front)
    }

    /// Gives places in the ring to as many units as fit.
    fn place(&mut self) {
        while self.next < self.total + self.problem.trace.len() as u64 {
            let unit = self.unit(self.next);
            let cost = &self.problem.units[unit];
            let resident = self.kept[unit] == Residency::Device;
            if resident && self.read[unit] {
                self.next += 1;
                continue;
            }
            let at = if resident { None } else { self.ring.alloc(cost.bytes, self.problem.machine.align) };
            if at.is_none() && !resident {
                return;
            }
            let from_disk =
                !std::mem::replace(&mut self.read[unit], true) || self.kept[unit] == Residency::Source;
            let chunks = cost.bytes.div_ceil(self.problem.machine.chunk.max(1)).clamp(1, CHUNKS);
            self.slots.push_back(Slot {
                position: self.next,
                at,
                left: chunks,
                disk: if from_disk { cost.disk / chunks } else { 0 },
                bus: cost.bus / chunks,
                arrived: self.room_done,
                issued: self.room_at,
            });
            if let Some(at) = at
                && self.next < self.listed
            {
                self.out.fetches.push(Fetch { position: self.next, unit, at, after: self.used });
            }
            self.next += 1;
        }
    }

    /// When the next chunk of a slot is read.
    fn read_end(&self, slot: usize) -> u64 {
        let slot = &self.slots[slot];
        if slot.disk == 0 {
            return slot.issued;
        }
        let machine = &self.problem.machine;
        let staging = if machine.shares_memory || self.staged.len() < self.staging_chunks {
            0
        } else {
            self.staged.front().copied().unwrap_or(0)
        };
        self.disk_free.max(slot.issued).max(staging) + slot.disk
    }

    fn move_chunk(&mut self, slot: usize) {
        let read = self.read_end(slot);
        let machine = self.problem.machine;
        let s = &mut self.slots[slot];
        s.left -= 1;
        if s.left == 0 {
            self.moved += 1;
        }
        if s.disk > 0 {
            self.disk_free = read;
        }
        s.issued = read;
        if machine.shares_memory {
            s.arrived = read;
            return;
        }
        let queue = if machine.one_queue { &mut self.compute_free } else { &mut self.bus_free };
        // Before its first chunk, `arrived` is when the last kernels that read this place are done.
        let end = (*queue).max(read).max(s.arrived) + s.bus;
        *queue = end;
        s.arrived = end;
        if s.disk > 0 {
            self.staged.push_back(end);
            while self.staged.len() > self.staging_chunks {
                self.staged.pop_front();
            }
        }
    }

    fn compute(&mut self, unit: usize) {
        let machine = self.problem.machine;
        let fetched = self.slots.front().is_some_and(|s| s.position == self.used);
        let slot = if fetched { self.slots.pop_front() } else { None };
        self.moved -= usize::from(fetched);
        let (arrived, issued) = slot.as_ref().map_or((0, 0), |s| (s.arrived, s.issued));
        self.host = self.host.max(issued);
        let start = self.compute_free.max(arrived);
        if self.used >= self.problem.trace.len() as u64 {
            self.out.stalls[unit] += start - self.compute_free;
        }
        let end = start + self.problem.units[unit].compute;
        self.compute_free = end;
        if machine.shares_memory {
            self.host = end;
        }
        self.used += 1;
        if let Some(at) = slot.and_then(|s| s.at) {
            self.ring.free(at);
            self.room_at = self.host;
            self.room_done = end;
        }
        if self.used.is_multiple_of(self.problem.trace.len() as u64) {
            self.out.ends.push(self.compute_free);
        }
    }
}
