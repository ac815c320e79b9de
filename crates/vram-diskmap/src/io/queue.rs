//! The line in which reads that go to a disk stand.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use vram_types::{Priority, ReadOptions, SourceError};

/// On the way at once, of all files. What is urgent waits for no more than this: 8 ms of a disk
/// that gives 2 GB/s.
const MOST_BYTES: u64 = 16 << 20;
/// How often a reader that waits looks whether it has been cancelled: a token cannot wake it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Bounds the bytes that are on their way from disks, and lets what is urgent pass before what is
/// read ahead.
///
/// There is one for the whole process, which every [`DiskMap`](crate::DiskMap) uses unless it is
/// [given another](crate::DiskMapOptions::queue): files of several maps are mostly on one disk,
/// and a priority says something only among all who wait for it. What the page cache holds, short
/// reads and memory maps pass it by.
///
/// ```
/// use std::sync::Arc;
/// use vram_diskmap::{DiskMap, ReadQueue};
///
/// let queue = Arc::new(ReadQueue::new(4 << 20));
/// let options = DiskMap::options().queue(Arc::clone(&queue));
/// assert_eq!(queue.bytes_in_flight(), 0);
/// ```
pub struct ReadQueue {
    most: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    in_flight: u64,
    peak: u64,
    /// Who is urgent and waits; nobody who reads ahead goes before them.
    urgent: usize,
    waiting: usize,
}

/// Bytes on their way; they are done when it is dropped.
pub(crate) struct Permit<'a> {
    queue: &'a ReadQueue,
    bytes: u64,
}

impl ReadQueue {
    /// At most so many bytes at once; a longer read goes alone.
    pub fn new(most_bytes: u64) -> ReadQueue {
        ReadQueue { most: most_bytes.max(1), state: Mutex::default(), freed: Condvar::new() }
    }

    /// That of the process: 16 MiB.
    pub fn process() -> Arc<ReadQueue> {
        static PROCESS: OnceLock<Arc<ReadQueue>> = OnceLock::new();
        Arc::clone(PROCESS.get_or_init(|| Arc::new(ReadQueue::new(MOST_BYTES))))
    }

    /// Bytes that are on their way now.
    pub fn bytes_in_flight(&self) -> u64 {
        self.lock().in_flight
    }

    /// The most that were on their way at once.
    pub fn peak_bytes_in_flight(&self) -> u64 {
        self.lock().peak
    }

    /// Waits until `bytes` more may be on their way.
    pub(crate) fn enter(&self, bytes: u64, options: &ReadOptions) -> Result<Permit<'_>, SourceError> {
        let (bytes, priority) = (bytes.min(self.most), options.priority);
        let mut state = self.lock();
        if !state.admits(bytes, priority, self.most) {
            let urgent = usize::from(priority == Priority::Urgent);
            state.urgent += urgent;
            state.waiting += 1;
            let result = loop {
                // While it waits it is itself among the urgent.
                let ahead = if urgent == 1 { 0 } else { state.urgent };
                if ahead == 0 && state.fits(bytes, self.most) {
                    break Ok(());
                }
                if let Err(e) = options.check() {
                    break Err(e);
                }
                let (woken, _) =
                    self.freed.wait_timeout(state, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner);
                state = woken;
            };
            state.urgent -= urgent;
            state.waiting -= 1;
            if let Err(e) = result {
                drop(state);
                self.freed.notify_all();
                return Err(e);
            }
        }
        Ok(self.admit(state, bytes))
    }

    /// The same without waiting.
    #[cfg_attr(not(all(target_os = "linux", feature = "io-uring")), allow(dead_code))] // threads wait
    pub(crate) fn try_enter(&self, bytes: u64, priority: Priority) -> Option<Permit<'_>> {
        let bytes = bytes.min(self.most);
        let state = self.lock();
        state.admits(bytes, priority, self.most).then(|| self.admit(state, bytes))
    }

    fn admit(&self, mut state: MutexGuard<'_, State>, bytes: u64) -> Permit<'_> {
        state.in_flight += bytes;
        state.peak = state.peak.max(state.in_flight);
        Permit { queue: self, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fits(&self, bytes: u64, most: u64) -> bool {
        self.in_flight == 0 || self.in_flight + bytes <= most
    }

    /// Whether somebody who has not waited yet may go. Nobody overtakes an urgent one.
    fn admits(&self, bytes: u64, priority: Priority, most: u64) -> bool {
        let first = self.urgent == 0 && (self.waiting == 0 || priority == Priority::Urgent);
        first && self.fits(bytes, most)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.queue.lock().in_flight -= self.bytes;
        self.queue.freed.notify_all();
    }
}

impl fmt::Debug for ReadQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("ReadQueue")
            .field("most_bytes", &self.most)
            .field("bytes_in_flight", &state.in_flight)
            .field("waiting", &state.waiting)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use vram_types::CancelToken;

    use super::*;

    fn with(priority: Priority) -> ReadOptions {
        ReadOptions::default().with_priority(priority)
    }

    fn until_waiting(queue: &ReadQueue, count: usize) {
        while queue.lock().waiting != count {
            thread::yield_now();
        }
    }

    #[test]
    fn what_is_urgent_goes_before_what_waited_longer() {
        let queue = &ReadQueue::new(100);
        let (order, took) = mpsc::channel();
        thread::scope(|scope| {
            let all = queue.enter(100, &with(Priority::ReadAhead)).unwrap();
            for (i, priority) in [Priority::ReadAhead, Priority::Urgent].into_iter().enumerate() {
                let order = order.clone();
                scope.spawn(move || {
                    let permit = queue.enter(100, &with(priority)).unwrap();
                    order.send(priority).unwrap();
                    drop(permit);
                });
                until_waiting(queue, i + 1);
            }
            assert!(queue.try_enter(1, Priority::Urgent).is_none());
            drop(all);
        });
        assert_eq!(took.try_iter().collect::<Vec<_>>(), [Priority::Urgent, Priority::ReadAhead]);
        assert_eq!((queue.bytes_in_flight(), queue.peak_bytes_in_flight()), (0, 100));
    }

    #[test]
    fn who_waits_can_be_cancelled_and_a_long_read_goes_alone() {
        let queue = &ReadQueue::new(100);
        thread::scope(|scope| {
            let alone = queue.enter(1000, &with(Priority::Urgent)).unwrap();
            assert_eq!(queue.bytes_in_flight(), 100);
            let cancelled = CancelToken::new();
            let waits = scope.spawn({
                let options = with(Priority::Urgent).with_cancel(&cancelled);
                move || queue.enter(1, &options).map(drop)
            });
            until_waiting(queue, 1);
            cancelled.cancel();
            let error = waits.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), vram_types::SourceErrorKind::Cancelled);
            drop(alone);
        });
        // Nobody is held back by the urgent one that left.
        drop(queue.enter(100, &with(Priority::ReadAhead)).unwrap());
        assert_eq!(queue.bytes_in_flight(), 0);
    }

    #[test]
    fn many_threads_stay_within_the_bound() {
        let queue = &ReadQueue::new(10);
        thread::scope(|scope| {
            for i in 0..8u64 {
                scope.spawn(move || {
                    for n in 0..200 {
                        let priority = if n % 3 == 0 { Priority::Urgent } else { Priority::ReadAhead };
                        let permit = queue.enter(1 + (i + n) % 7, &with(priority)).unwrap();
                        thread::yield_now();
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(queue.bytes_in_flight(), 0);
        assert!(queue.peak_bytes_in_flight() <= 10);
    }
}
