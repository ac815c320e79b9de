//! The two queues: what was issued, what has run, and what must run before what.

use std::collections::VecDeque;
use std::ops::Range;

use super::Lateness;
use super::clock::{Stamp, Threads};
use super::faults::Faults;
use super::memory::Span;
use super::race::{self, Access, Violation};
use super::trace::{OpKind, Operation, Record};
use crate::{DeviceError, Queue, Ticket};

pub(super) const QUEUES: [Queue; 2] = [Queue::Copy, Queue::Compute];

/// Bits of a ticket's value that count operations; those above name the device.
const COUNT_BITS: u32 = 40;

/// How often in a row [`is_done`](crate::Device::is_done) says no about work that has to be waited for.
const REFUSALS: u32 = 2;

/// What a kernel does with the bytes it reads and writes.
pub(super) type Run = Box<dyn Fn(&[Vec<u8>], &mut [Vec<u8>]) -> Result<(), DeviceError> + Send>;

pub(super) enum Work {
    /// The staged bytes to copy, as far as they are known.
    Upload {
        bytes: Vec<u8>,
        to: Span,
    },
    Kernel {
        reads: Vec<Span>,
        writes: Vec<Span>,
        run: Run,
        rehearse: bool,
    },
    /// Performed by the thread that asked for it.
    Download {
        from: Span,
    },
}

impl Work {
    fn run(&self) -> Result<(), DeviceError> {
        match self {
            Work::Upload { bytes, to } => {
                to.write(bytes);
                Ok(())
            }
            Work::Kernel { reads, writes, run, .. } => {
                let inputs: Vec<_> = reads.iter().map(Span::read).collect();
                let mut outputs: Vec<_> = writes.iter().map(Span::read).collect();
                run(&inputs, &mut outputs)?;
                writes.iter().zip(&outputs).for_each(|(span, bytes)| span.write(bytes));
                Ok(())
            }
            Work::Download { .. } => Ok(()),
        }
    }

    /// Runs the kernel on zeros to see whether it refuses its operands, because when it runs for real it is
    /// too late.
    fn rehearse(&self) -> Result<(), DeviceError> {
        let Work::Kernel { reads, writes, run, rehearse: true } = self else { return Ok(()) };
        let zeros =
            |spans: &[Span]| -> Vec<_> { spans.iter().map(|s| vec![0; s.bytes() as usize]).collect() };
        run(&zeros(reads), &mut zeros(writes))
    }

    fn accesses(&self) -> Vec<(&Span, bool)> {
        match self {
            Work::Upload { to, .. } => vec![(to, true)],
            Work::Kernel { reads, writes, .. } => {
                reads.iter().map(|s| (s, false)).chain(writes.iter().map(|s| (s, true))).collect()
            }
            Work::Download { from } => vec![(from, false)],
        }
    }

    fn bytes(&self) -> u64 {
        self.accesses().iter().map(|(span, _)| span.bytes()).sum()
    }
}

/// An operation to be issued.
pub(super) struct Issue {
    pub(super) queue: Queue,
    pub(super) kind: OpKind,
    pub(super) ns: u64,
    pub(super) work: Work,
}

#[derive(Default)]
struct Lane {
    // Invariants:
    // 1. `records[i]` is operation i + 1; the first `ran` of them have run, and `pending` holds the rest in
    //    order.
    // 2. `next` covers all operations of the lane and everything its orders name.
    records: Vec<Record>,
    ran: u64,
    pending: VecDeque<(Stamp, Work)>,
    next: Stamp,
    /// When the next operation can begin, in nanoseconds.
    free: u64,
    refused: u32,
}

/// Bytes that an upload took from staging, kept until the host knows that it is done.
struct Staged {
    staging: u64,
    upload: u64,
    range: Range<u64>,
    bytes: Vec<u8>,
}

pub(super) struct Queues {
    device: u64,
    lateness: Lateness,
    /// Copies and kernels run one after the other, in the order of issue.
    serialised: bool,
    copy: Lane,
    compute: Lane,
    /// What the host knows to be done.
    host: Stamp,
    pub(super) threads: Threads,
    staged: Vec<Staged>,
    pub(super) violations: Vec<Violation>,
    pub(super) faults: Faults,
    lost: Option<String>,
}

impl Queues {
    pub(super) fn new(device: u64, lateness: Lateness, serialised: bool, faults: Faults) -> Queues {
        Queues {
            device,
            lateness,
            serialised,
            copy: Lane::default(),
            compute: Lane::default(),
            host: Stamp::default(),
            threads: Threads::default(),
            staged: Vec::new(),
            violations: Vec::new(),
            faults,
            lost: None,
        }
    }

    pub(super) fn alive(&self) -> Result<(), DeviceError> {
        match &self.lost {
            None => Ok(()),
            Some(reason) => Err(DeviceError::Lost { reason: reason.clone() }),
        }
    }

    /// Issues an operation, which runs now or when a later operation is ordered after it.
    pub(super) fn issue(&mut self, issue: Issue) -> Result<Ticket, DeviceError> {
        self.alive()?;
        if let Some(reason) = self.faults.operation() {
            self.lose(reason);
        }
        self.alive()?;
        let Issue { queue, kind, ns, work } = issue;
        let (before, start) = self.next(queue);
        let operation = self.lane(queue).records.len() as u64 + 1;
        let download = matches!(work, Work::Download { .. });
        let late = self.lateness.is_late(queue, operation) && !download;
        if late {
            work.rehearse()?;
        } else {
            self.run_until(before);
            work.run()?;
        }
        let stamp = before.with(queue, operation);
        self.watch(&work, (queue, operation, kind), stamp);
        let end = start.saturating_add(ns);
        let record = Record { kind, bytes: work.bytes(), start, end, stamp };
        let lane = self.lane_mut(queue);
        lane.records.push(record);
        (lane.next, lane.free) = (stamp, end);
        match late {
            true => lane.pending.push_back((stamp, work)),
            false => lane.ran += 1,
        }
        Ok(self.name(queue, operation))
    }

    /// Checks staging for bytes that were overwritten before the uploads that take them were known to be
    /// done. Uploads that have not run yet copy the current bytes.
    pub(super) fn look(&mut self, staging: u64, host: &[u8]) {
        let done = self.host;
        self.staged.retain(|s| !done.covers(Queue::Copy, s.upload));
        for s in self.staged.iter_mut().filter(|s| s.staging == staging) {
            let now = &host[s.range.start as usize..s.range.end as usize];
            if s.bytes == now {
                continue;
            }
            let (upload, range) = (s.upload, s.range.clone());
            self.violations.push(Violation::StagingReused { staging, upload, range });
            s.bytes = now.to_vec();
            let waiting = upload.checked_sub(self.copy.ran + 1).map(|i| i as usize);
            if let Some((_, Work::Upload { bytes, .. })) = waiting.and_then(|i| self.copy.pending.get_mut(i))
            {
                bytes.copy_from_slice(now);
            }
        }
    }

    /// Records what an upload takes from staging.
    pub(super) fn remember(&mut self, staging: u64, range: Range<u64>, host: &[u8], upload: Ticket) {
        let bytes = host[range.start as usize..range.end as usize].to_vec();
        self.staged.push(Staged { staging, upload: upload.value & count_mask(), range, bytes });
    }

    pub(super) fn ticket(&self, queue: Queue) -> Result<Ticket, DeviceError> {
        self.alive()?;
        Ok(self.name(queue, self.lane(queue).records.len() as u64))
    }

    pub(super) fn order(&mut self, queue: Queue, after: Ticket) -> Result<(), DeviceError> {
        self.alive()?;
        let (stamp, end) = self.reached(after)?;
        let lane = self.lane_mut(queue);
        lane.next = lane.next.join(stamp);
        lane.free = lane.free.max(end);
        Ok(())
    }

    pub(super) fn is_done(&mut self, ticket: Ticket) -> Result<bool, DeviceError> {
        self.alive()?;
        let (stamp, _) = self.reached(ticket)?;
        let known = self.host.join(stamp) == self.host;
        let lane = self.lane_mut(ticket.queue);
        if !known && lane.refused < REFUSALS {
            lane.refused += 1;
            return Ok(false);
        }
        lane.refused = 0;
        self.wait(ticket)?;
        Ok(true)
    }

    pub(super) fn wait(&mut self, ticket: Ticket) -> Result<(), DeviceError> {
        self.alive()?;
        let (stamp, end) = self.reached(ticket)?;
        self.run_until(stamp);
        self.alive()?;
        self.host = self.host.join(stamp);
        self.threads.reach(end);
        Ok(())
    }

    /// Runs everything that was issued, without the host knowing about it.
    pub(super) fn run_all(&mut self) {
        self.run_until(self.copy.next.join(self.compute.next));
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        QUEUES.into_iter().flat_map(|q| self.lane(q).records.iter().map(move |r| r.operation(q))).collect()
    }

    /// The end of the last operation in nanoseconds.
    pub(super) fn end(&self) -> u64 {
        let ends = QUEUES.into_iter().filter_map(|q| self.lane(q).records.last());
        ends.map(|r| r.end).max().unwrap_or(0)
    }

    /// What the next operation of a queue comes after, and when it can begin.
    fn next(&self, queue: Queue) -> (Stamp, u64) {
        let lane = self.lane(queue);
        let (mut stamp, mut start) = (lane.next.join(self.host), lane.free.max(self.threads.now()));
        if self.serialised {
            let other = self.lane(other(queue));
            stamp = stamp.join(other.next);
            start = start.max(other.free);
        }
        (stamp, start)
    }

    fn watch(&mut self, work: &Work, (queue, operation, kind): (Queue, u64, OpKind), stamp: Stamp) {
        for (span, writes) in work.accesses() {
            let access = Access { queue, operation, kind, writes, range: span.range.clone() };
            self.violations.extend(race::enter(span, access, stamp, self.host));
        }
    }

    /// Runs all operations that `target` covers. A stamp that covers an operation covers everything before
    /// it, so at least one of the two next operations can always run.
    fn run_until(&mut self, target: Stamp) {
        // Of two unordered operations, the one that would come too early runs first.
        let eager = match self.lateness {
            Lateness::Copies => [Queue::Compute, Queue::Copy],
            _ => QUEUES,
        };
        while let Some(queue) = eager.into_iter().find(|&q| self.can_run(q, target)) {
            let lane = self.lane_mut(queue);
            let Some((_, work)) = lane.pending.pop_front() else { return };
            lane.ran += 1;
            if let Err(e) = work.run() {
                self.lose(format!("a kernel that had been accepted failed: {e}"));
            }
        }
    }

    fn can_run(&self, queue: Queue, target: Stamp) -> bool {
        let lane = self.lane(queue);
        lane.pending.front().is_some_and(|(stamp, _)| {
            target.covers(queue, lane.ran + 1) && stamp.of(other(queue)) <= self.lane(other(queue)).ran
        })
    }

    fn lose(&mut self, reason: String) {
        self.lost.get_or_insert(reason);
        for queue in QUEUES {
            self.lane_mut(queue).pending.clear();
        }
    }

    /// The stamp of a ticket, and when it is done.
    fn reached(&self, ticket: Ticket) -> Result<(Stamp, u64), DeviceError> {
        let operation = ticket.value & count_mask();
        let records = &self.lane(ticket.queue).records;
        if ticket.value >> COUNT_BITS != self.device || operation > records.len() as u64 {
            return Err(DeviceError::Failed {
                what: "a ticket",
                reason: format!("{ticket:?} belongs to another device"),
            });
        }
        let record = operation.checked_sub(1).and_then(|i| records.get(i as usize));
        Ok(record.map_or((Stamp::default(), 0), |r| (r.stamp, r.end)))
    }

    fn name(&self, queue: Queue, operation: u64) -> Ticket {
        Ticket { queue, value: self.device << COUNT_BITS | operation }
    }

    fn lane(&self, queue: Queue) -> &Lane {
        match queue {
            Queue::Copy => &self.copy,
            Queue::Compute => &self.compute,
        }
    }

    fn lane_mut(&mut self, queue: Queue) -> &mut Lane {
        match queue {
            Queue::Copy => &mut self.copy,
            Queue::Compute => &mut self.compute,
        }
    }
}

fn other(queue: Queue) -> Queue {
    match queue {
        Queue::Copy => Queue::Compute,
        Queue::Compute => Queue::Copy,
    }
}

fn count_mask() -> u64 {
    (1 << COUNT_BITS) - 1
}
