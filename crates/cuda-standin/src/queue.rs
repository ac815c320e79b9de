//! Streams and events. Work runs as late as ordering permits.
//!
//! Queued work runs only when the host waits for it, or before later work of another stream that
//! waits for it. So a missing wait fails every time: a kernel reads before the copy that should
//! have come first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::blocks::{Position, Span};
use crate::clock::Clock;
use crate::state::State;
use crate::status::Status;
use crate::work::Work;

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) context: usize,
    pub(crate) is_default: bool,
    /// Whether it is ordered with the default stream, like all streams without
    /// `CU_STREAM_NON_BLOCKING`.
    pub(crate) blocking: bool,
    /// Destroyed; it is removed after its work has run.
    pub(crate) closed: bool,
    /// The number that messages use.
    pub(crate) lane: usize,
    queue: VecDeque<(u64, Work)>,
    issued: u64,
    done: u64,
    /// What comes before the next work.
    pub(crate) clock: Clock,
    /// How many more times it reports that it is not ready.
    left: i64,
}

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) context: usize,
    /// Whether it records time.
    pub(crate) timing: bool,
    record: Option<Record>,
}

#[derive(Clone, Debug)]
struct Record {
    stream: usize,
    position: u64,
    clock: Clock,
    /// When it ran.
    at: Option<Instant>,
    left: i64,
}

/// A part of an allocation that work accesses.
#[derive(Clone, Debug)]
pub(crate) struct Touch {
    pub(crate) span: Span,
    pub(crate) writes: bool,
}

impl Stream {
    pub(crate) fn new(context: usize, blocking: bool, is_default: bool, lane: usize) -> Self {
        let (queue, clock) = (VecDeque::new(), Clock::default());
        Self { context, is_default, blocking, closed: false, lane, queue, issued: 0, done: 0, clock, left: 0 }
    }

    /// How many operations have not run yet.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Drops the operations that have not run.
    pub(crate) fn abandon(&mut self) {
        self.queue.clear();
        self.done = self.issued;
    }
}

impl Event {
    pub(crate) fn new(context: usize, timing: bool) -> Self {
        Self { context, timing, record: None }
    }

    /// When the latest record ran; `None` if there is none or it has not run.
    pub(crate) fn ran_at(&self) -> Option<Instant> {
        self.record.as_ref()?.at
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.record.is_some()
    }
}

impl State {
    /// Queues work at the end of a stream, and records its accesses.
    pub(crate) fn issue(
        &mut self,
        stream: usize,
        what: &Arc<str>,
        work: Work,
        touches: &[Touch],
    ) -> Result<u64, Status> {
        self.order_with_default(stream)?;
        let position = self.push(stream, work)?;
        let (lane, clock) = {
            let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
            (s.lane, s.clock.clone())
        };
        for Touch { span, writes } in touches {
            let place = Position { lane, at: position };
            let raced = self.blocks.touch(span, *writes, place, what, &clock, &self.host);
            raced.into_iter().for_each(|message| self.misused(format!("race: {message}")));
        }
        if self.config.early_copies != 0 {
            self.run_early(stream)?;
        }
        Ok(position)
    }

    fn push(&mut self, stream: usize, work: Work) -> Result<u64, Status> {
        let left = self.config.queries;
        let s = self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        s.issued += 1;
        s.left = left;
        s.clock.join(&self.host);
        s.clock.reach(s.lane, s.issued);
        s.queue.push_back((s.issued, work));
        Ok(s.issued)
    }

    /// Makes the default stream wait for every blocking stream of its context, and these for it.
    fn order_with_default(&mut self, stream: usize) -> Result<(), Status> {
        let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        let (context, is_default, blocking) = (s.context, s.is_default, s.blocking);
        if !is_default && !blocking {
            return Ok(());
        }
        let others = self.streams.iter().filter(|(handle, other)| {
            let related = if is_default { other.blocking } else { other.is_default };
            **handle != stream && other.context == context && related && other.issued > 0
        });
        let others: Vec<(usize, u64, Clock)> =
            others.map(|(handle, other)| (*handle, other.issued, other.clock.clone())).collect();
        for (other, position, clock) in others {
            if !self.is_done(other, position) {
                self.push(stream, Work::Wait { stream: other, position })?;
            }
            self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?.clock.join(&clock);
        }
        Ok(())
    }

    /// Records an event after all queued work of a stream.
    pub(crate) fn record(&mut self, event: usize, stream: usize) -> Result<(), Status> {
        let position = self.issue(stream, &"event".into(), Work::Record { event }, &[])?;
        let clock = self.streams.get(&stream).map(|s| s.clock.clone()).unwrap_or_default();
        let left = self.config.queries;
        let at = self.is_done(stream, position).then(Instant::now);
        let event = self.events.get_mut(&event).ok_or(Status::INVALID_HANDLE)?;
        event.record = Some(Record { stream, position, clock, at, left });
        Ok(())
    }

    /// Orders a stream's next work after an event's latest record. Without a record there is
    /// nothing to wait for.
    pub(crate) fn wait(&mut self, stream: usize, event: usize) -> Result<(), Status> {
        self.books.event_waits += 1;
        let record = self.events.get(&event).ok_or(Status::INVALID_HANDLE)?.record.clone();
        let Some(Record { stream: other, position, clock, .. }) = record else { return Ok(()) };
        self.issue(stream, &"wait".into(), Work::Wait { stream: other, position }, &[])?;
        self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?.clock.join(&clock);
        Ok(())
    }

    /// Runs all work that an event stands for.
    pub(crate) fn synchronise_event(&mut self, event: usize) -> Result<(), Status> {
        self.books.host_waits += 1;
        let record = self.events.get(&event).ok_or(Status::INVALID_HANDLE)?.record.clone();
        let Some(record) = record else { return Ok(()) };
        self.run(record.stream, record.position)?;
        self.host.join(&record.clock);
        Ok(())
    }

    /// Whether an event's work has run. It runs after enough queries.
    pub(crate) fn query_event(&mut self, event: usize) -> Result<(), Status> {
        let e = self.events.get_mut(&event).ok_or(Status::INVALID_HANDLE)?;
        let Some(record) = e.record.as_mut() else { return Ok(()) };
        record.left -= 1;
        let Record { stream, position, left, clock, .. } = record.clone();
        if !self.is_done(stream, position) {
            if left >= 0 {
                return Err(Status::NOT_READY);
            }
            self.run(stream, position)?;
        }
        self.host.join(&clock);
        Ok(())
    }

    /// Whether all work of a stream has run. It runs after enough queries.
    pub(crate) fn query_stream(&mut self, stream: usize) -> Result<(), Status> {
        let s = self.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?;
        if s.done < s.issued {
            s.left -= 1;
            if s.left >= 0 {
                return Err(Status::NOT_READY);
            }
        }
        self.finish(stream)
    }

    /// Runs all work of a stream, and tells the host's clock.
    pub(crate) fn synchronise_stream(&mut self, stream: usize) -> Result<(), Status> {
        self.books.host_waits += 1;
        self.finish(stream)
    }

    fn finish(&mut self, stream: usize) -> Result<(), Status> {
        let s = self.streams.get(&stream).ok_or(Status::INVALID_HANDLE)?;
        let (issued, clock) = (s.issued, s.clock.clone());
        self.run(stream, issued)?;
        self.host.join(&clock);
        Ok(())
    }

    /// Runs all work of all streams of a context.
    pub(crate) fn synchronise_context(&mut self, context: usize) -> Result<(), Status> {
        self.books.host_waits += 1;
        let mut streams: Vec<usize> =
            self.streams.iter().filter(|(_, s)| s.context == context).map(|(handle, _)| *handle).collect();
        streams.sort_unstable();
        streams.into_iter().try_for_each(|stream| self.finish(stream))
    }

    /// Whether a stream's work up to a position has run. Removed streams have run all of theirs.
    fn is_done(&self, stream: usize, position: u64) -> bool {
        self.streams.get(&stream).is_none_or(|s| position <= s.done)
    }

    /// Runs a stream's work up to a position, and before it everything that it waits for.
    pub(crate) fn run(&mut self, stream: usize, position: u64) -> Result<(), Status> {
        while !self.is_done(stream, position) {
            if !self.step(stream)? {
                break;
            }
        }
        Ok(())
    }

    /// Runs the copies at the head of a stream whose waits are all satisfied.
    fn run_early(&mut self, stream: usize) -> Result<(), Status> {
        loop {
            let Some((_, work)) = self.streams.get(&stream).and_then(|s| s.queue.front()) else {
                return Ok(());
            };
            let ready = match work {
                Work::Wait { stream, position } => self.is_done(*stream, *position),
                Work::Copy(_) | Work::Fill(_) | Work::Record { .. } => true,
                Work::Launch(_) | Work::Product(_) => false,
            };
            if !ready || !self.step(stream)? {
                return Ok(());
            }
        }
    }

    /// Runs the next operation of a stream; false if there is none.
    fn step(&mut self, stream: usize) -> Result<bool, Status> {
        let Some(s) = self.streams.get_mut(&stream) else { return Ok(false) };
        let Some((position, work)) = s.queue.pop_front() else { return Ok(false) };
        let (context, lane) = (s.context, s.lane);
        let result = match work {
            Work::Wait { stream: other, position } => self.run(other, position),
            Work::Record { event } => {
                let record = self.events.get_mut(&event).and_then(|e| e.record.as_mut());
                // If the event was recorded again, it stands for something later.
                if let Some(record) = record.filter(|r| r.stream == stream && r.position == position) {
                    record.at = Some(Instant::now());
                }
                Ok(())
            }
            work => self.perform(work, Position { lane, at: position }),
        };
        if let Err(status) = result {
            self.kill(context, status);
            return Err(status);
        }
        if let Some(s) = self.streams.get_mut(&stream) {
            s.done = position;
            if s.closed && s.queue.is_empty() {
                self.streams.remove(&stream);
            }
        }
        Ok(true)
    }
}
