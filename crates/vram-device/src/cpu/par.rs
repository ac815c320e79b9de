//! Divides work between the threads of a pool, without allocating and without letting the division affect the
//! result.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::ThreadPool;

/// The threads that a kernel may use; `None` for the calling thread only.
pub type Pool<'a> = Option<&'a ThreadPool>;

/// Bytes of traffic below which waking other threads costs more than it saves.
///
/// Waking a thread took 30 to 100 microseconds on the virtual machines that this was measured on.
const SERIAL_BYTES: usize = 256 << 10;

/// Bytes per task if elements are independent.
pub(crate) const BLOCK: usize = 16 << 10;

/// The pool, or `None` if the work is too small for it.
pub(crate) fn worth(pool: Pool<'_>, bytes: usize) -> Pool<'_> {
    pool.filter(|p| bytes > SERIAL_BYTES && p.current_num_threads() > 1)
}

/// How many calls of a [`for_each`] task may run at once.
pub(crate) fn lanes(pool: Pool<'_>) -> usize {
    pool.map_or(1, ThreadPool::current_num_threads).max(1)
}

/// Calls `f(lane, task)` for every task below `tasks`; calls that run at once have different lanes below [`lanes`].
///
/// The tasks are handed out one by one in order, so neighbouring rows are read at the same time, and a thread
/// that loses its core delays only one task.
pub(crate) fn for_each<F: Fn(usize, usize) + Sync>(pool: Pool<'_>, tasks: usize, f: F) {
    let lanes = lanes(pool).min(tasks);
    let pool = match pool {
        Some(pool) if lanes > 1 => pool,
        _ => return (0..tasks).for_each(|task| f(0, task)),
    };
    let next = AtomicUsize::new(0);
    let lane = |lane: usize| {
        loop {
            // Relaxed: only the count is shared; the join below orders what the tasks wrote.
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            f(lane, task);
        }
    };
    pool.install(|| fork(0, lanes, &lane));
}

fn fork<F: Fn(usize) + Sync>(low: usize, high: usize, lane: &F) {
    if high - low == 1 {
        return lane(low);
    }
    let middle = low.midpoint(high);
    rayon::join(|| fork(low, middle, lane), || fork(middle, high, lane));
}

/// Calls `f(index, block)` for the consecutive blocks of `block` bytes of `data`; the last may be shorter.
pub(crate) fn for_each_block<F>(pool: Pool<'_>, data: &mut [u8], block: usize, f: F)
where
    F: Fn(usize, &mut [u8]) + Sync,
{
    let block = block.max(1);
    let len = data.len();
    let out = Shared::new(data);
    for_each(pool, len.div_ceil(block), |_, i| {
        let start = i * block;
        // SAFETY: blocks of different tasks do not overlap, each task runs once, and `start + size` is at most `len`.
        f(i, unsafe { out.slice(start, block.min(len - start)) });
    });
}

/// A slice that several tasks write at once, each a separate part.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `slice`, whose callers promise that no two tasks touch the same element.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Shared { start: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// The part that begins at `start`.
    ///
    /// # Safety
    /// `start + len` is at most the length of the slice, and no part that overlaps this one is alive.
    #[allow(clippy::mut_from_ref)] // disjointness is the caller's promise
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        debug_assert!(start.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: inside the borrowed slice, and not aliased, by the caller's promise; `borrow` keeps it alive.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
