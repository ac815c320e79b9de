//! A stream, and the positions in it that tickets name.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::driver::{Event, Stream};
use super::guard::{Guard, guard};
use crate::DeviceError;

/// Unused events. Creating one costs the driver a lock and some memory, recording one almost nothing.
#[derive(Default)]
pub(super) struct Events(Mutex<Vec<Event>>);

impl Events {
    fn get(&self) -> Result<Event, DeviceError> {
        let free = self.all().pop();
        free.map_or_else(Event::new, Ok)
    }

    fn put(&self, event: Arc<Event>) {
        // A thread that is waiting for it gives it back instead.
        if let Some(event) = Arc::into_inner(event) {
            self.all().push(event);
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn destroy(&mut self) {
        self.all().drain(..).for_each(Event::destroy);
    }
}

/// A stream and the events recorded in it.
pub(super) struct Timeline {
    pub(super) stream: Stream,
    /// The last mark known to be done.
    done: AtomicU64,
    // Invariants:
    // 1. Marks are numbered from 1 in the order in which their events were recorded in the stream, and kept
    //    in that order.
    // 2. A mark that is not kept is covered by `done`: every number up to `issued` is kept or at most `done`.
    // 3. An event leaves `marks` only when it is done, and is recorded again only when nothing holds it.
    marks: Mutex<Marks>,
}

struct Marks {
    issued: u64,
    kept: VecDeque<(u64, Arc<Event>)>,
}

impl Timeline {
    pub(super) fn new(stream: Stream) -> Timeline {
        let marks = Mutex::new(Marks { issued: 0, kept: VecDeque::new() });
        Timeline { stream, done: AtomicU64::new(0), marks }
    }

    /// The last mark.
    pub(super) fn last(&self) -> u64 {
        self.marks().issued
    }

    /// Issues work and marks the position after it. Nothing else that this backend marks comes between.
    pub(super) fn mark(
        &self,
        events: &Events,
        work: impl FnOnce(&Stream) -> Result<(), DeviceError>,
    ) -> Result<u64, DeviceError> {
        let mut marks = self.marks();
        work(&self.stream)?;
        let event = events.get()?;
        event.record(&self.stream)?;
        marks.issued += 1;
        let value = marks.issued;
        marks.kept.push_back((value, Arc::new(event)));
        // Marks that are done are dropped now, so that they do not pile up if no one queries them.
        while let Some((first, event)) = marks.kept.front() {
            if !is_done(event)? {
                break;
            }
            let first = *first;
            self.finish(&mut marks, events, first);
        }
        Ok(value)
    }

    /// Whether a mark is done.
    pub(super) fn is_done(&self, events: &Events, value: u64) -> Result<bool, DeviceError> {
        if value <= self.done.load(Ordering::Acquire) {
            return Ok(true);
        }
        let mut marks = self.marks();
        let Some((_, event)) = marks.at(value) else { return Ok(true) };
        if !is_done(&event)? {
            return Ok(false);
        }
        drop(event);
        self.finish(&mut marks, events, value);
        Ok(true)
    }

    /// Blocks the host until a mark is done.
    pub(super) fn wait(&self, events: &Events, value: u64) -> Result<(), DeviceError> {
        if value <= self.done.load(Ordering::Acquire) || !guard(Guard::Wait) {
            return Ok(());
        }
        let Some((value, event)) = self.marks().at(value) else { return Ok(()) };
        // Without the lock, so that others can continue to issue.
        event.wait()?;
        self.finish(&mut self.marks(), events, value);
        events.put(event);
        Ok(())
    }

    /// Work issued to `stream` from now on starts after a mark.
    pub(super) fn precede(&self, value: u64, stream: &Stream) -> Result<(), DeviceError> {
        if value <= self.done.load(Ordering::Acquire) {
            return Ok(());
        }
        let marks = self.marks();
        match marks.at(value) {
            // Under the lock, so that the event is not recorded again before.
            Some((_, event)) => stream.wait_for(&event),
            None => Ok(()),
        }
    }

    /// Notes that the marks up to `value` are done.
    fn finish(&self, marks: &mut Marks, events: &Events, value: u64) {
        while marks.kept.front().is_some_and(|(first, _)| *first <= value) {
            if let Some((_, event)) = marks.kept.pop_front() {
                events.put(event);
            }
        }
        self.done.fetch_max(value, Ordering::AcqRel);
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // Numbers and events change together, after the calls that may fail.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: moves all events to `events` and destroys the stream.
    pub(super) fn destroy(self, events: &Events) {
        let marks = self.marks.into_inner().unwrap_or_else(PoisonError::into_inner);
        marks.kept.into_iter().for_each(|(_, event)| events.put(event));
        self.stream.destroy();
    }
}

impl Marks {
    /// The first kept mark from `value` on.
    fn at(&self, value: u64) -> Option<(u64, Arc<Event>)> {
        let (first, _) = self.kept.front()?;
        let index = usize::try_from(value.saturating_sub(*first)).ok()?;
        self.kept.get(index).map(|(value, event)| (*value, Arc::clone(event)))
    }
}

/// Whether an event is done, as far as reuse and the answer about its ticket are concerned.
fn is_done(event: &Event) -> Result<bool, DeviceError> {
    Ok(event.is_done()? || !guard(Guard::IsDone))
}
