//! Several threads that share some work: the calling one, and helpers where there is enough to do.

use std::iter::Enumerate;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::vec::IntoIter;

/// Threads that share one batch of reads. They wait for the disk most of the time, or for a
/// processor behind others.
pub(crate) const THREADS: usize = 8;
/// A batch of so many bytes gets helpers at once.
pub(crate) const LEAST_SHARED_BYTES: usize = 4 << 20;
/// Any other gets them if it takes longer than this, a few times as long as it takes to begin a
/// thread.
const ALONE: Duration = Duration::from_micros(200);

/// Threads that share what waits for nothing: copies of what is in memory.
pub(super) fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, usize::from).min(THREADS))
}

/// Does all of something, in about its order, on the calling thread and on helpers that end with
/// it, `threads` at most. `bytes` says how much it is. After a failure the rest is not begun; of
/// several failures the one that comes first in the order is given.
pub(crate) fn share<T: Send, E: Send>(
    tasks: Vec<T>,
    bytes: usize,
    threads: usize,
    run: impl Fn(T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let batch = Batch::new(tasks, run);
    let until = if bytes >= LEAST_SHARED_BYTES { Instant::now() } else { Instant::now() + ALONE };
    let left = batch.work(|| Instant::now() >= until);
    let helpers = left.min(threads).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..helpers {
            let helper = thread::Builder::new().name("vram-read".to_owned());
            // Where the system gives no more threads, those that there are do all of it.
            let _ = helper.spawn_scoped(scope, || batch.work(|| false));
        }
        batch.work(|| false);
    });
    batch.end()
}

/// Work that several threads take from.
struct Batch<T, E, R> {
    run: R,
    tasks: Mutex<Enumerate<IntoIter<T>>>,
    failed: AtomicBool,
    /// Of all failures the one whose task comes first.
    failure: Mutex<Option<(usize, E)>>,
}

impl<T, E, R: Fn(T) -> Result<(), E>> Batch<T, E, R> {
    fn new(tasks: Vec<T>, run: R) -> Self {
        let tasks = Mutex::new(tasks.into_iter().enumerate());
        Batch { run, tasks, failed: AtomicBool::new(false), failure: Mutex::default() }
    }

    /// Works until there is nothing to do or `enough` says so. Returns how much is left.
    fn work(&self, enough: impl Fn() -> bool) -> usize {
        while !self.failed.load(Ordering::Relaxed) {
            let next = {
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                if enough() {
                    return tasks.len();
                }
                tasks.next()
            };
            let Some((number, task)) = next else { break };
            if let Err(error) = (self.run)(task) {
                self.fail(number, error);
            }
        }
        0
    }

    fn fail(&self, number: usize, error: E) {
        self.failed.store(true, Ordering::Relaxed);
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|(before, _)| number < *before) {
            *failure = Some((number, error));
        }
    }

    fn end(self) -> Result<(), E> {
        match self.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn everything_is_done_once() {
        for (count, bytes) in [(0, 0), (1, 0), (1, usize::MAX), (100, 0), (100, usize::MAX)] {
            let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let result = share((0..count).collect(), bytes, THREADS, |i: usize| {
                done[i].fetch_add(1, Ordering::Relaxed);
                Ok::<(), ()>(())
            });
            assert_eq!(result, Ok(()));
            assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{count} of {bytes} bytes");
        }
    }

    #[test]
    fn after_a_failure_nothing_is_begun_and_the_first_is_told() {
        let begun = AtomicUsize::new(0);
        let result = share((0..1000).collect(), usize::MAX, THREADS, |i: usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            if i < 5 { Ok(()) } else { Err(i) }
        });
        assert_eq!(result, Err(5));
        assert!(begun.into_inner() < 5 + 2 * THREADS);
    }
}
