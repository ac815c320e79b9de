//! The happens-before order of operations, as vector clocks of the two queues, and virtual time.

use std::collections::HashMap;
use std::thread::ThreadId;

use crate::Queue;

/// A vector clock: how many operations of each queue came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    copy: u64,
    compute: u64,
}

impl Stamp {
    pub(super) fn of(self, queue: Queue) -> u64 {
        match queue {
            Queue::Copy => self.copy,
            Queue::Compute => self.compute,
        }
    }

    pub(super) fn with(mut self, queue: Queue, operations: u64) -> Stamp {
        match queue {
            Queue::Copy => self.copy = operations,
            Queue::Compute => self.compute = operations,
        }
        self
    }

    pub(super) fn join(self, other: Stamp) -> Stamp {
        Stamp { copy: self.copy.max(other.copy), compute: self.compute.max(other.compute) }
    }

    /// Whether the `operation`-th of a queue, counted from 1, came before.
    pub(super) fn covers(self, queue: Queue, operation: u64) -> bool {
        operation <= self.of(queue)
    }
}

/// Virtual times of the host's threads in nanoseconds. A thread that never waited is at 0.
#[derive(Debug, Default)]
pub(super) struct Threads(HashMap<ThreadId, u64>);

impl Threads {
    pub(super) fn now(&self) -> u64 {
        self.0.get(&std::thread::current().id()).copied().unwrap_or(0)
    }

    /// Advances the calling thread's time, which never goes back.
    pub(super) fn reach(&mut self, ns: u64) {
        let now = self.0.entry(std::thread::current().id()).or_default();
        *now = ns.max(*now);
    }
}
