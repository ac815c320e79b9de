//! A short measurement of the ways in which cold bytes of a file can be read.

use std::fmt;
use std::time::Instant;

use vram_types::{CancelToken, FileId, Priority};

use super::aligned::{Aligned, HUGE_PAGE};
use super::cache::{Cached, cached};
use super::task::{Task, cut};
use super::threads::{THREADS, read_all, share};
use super::{Piece, Pool, ReadMode, ReadQueue, StoredFile, Terms};

/// Bytes that one measurement reads.
const STRETCH_BYTES: u64 = 8 << 20;
/// How often each way is measured; the ways take turns.
const ROUNDS: usize = 2;

/// Bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Probe {
    pub(crate) direct: f64,
    pub(crate) buffered: f64,
    pub(crate) uring: Option<f64>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "probed: direct {:.2} GB/s, buffered {:.2} GB/s", self.direct / 1e9, self.buffered / 1e9)?;
        match self.uring {
            Some(uring) => write!(f, ", io_uring {:.2} GB/s", uring / 1e9),
            None => Ok(()),
        }
    }
}

/// Measures the mount of a file by reading cold stretches of it, each once; the page cache is left as it was. `None` if the
/// file has too few of them, cannot be read directly, or is read through something.
pub(crate) fn probe(file: &StoredFile) -> Option<Probe> {
    let align = file.direct.alignment(&file.plain, file.path()).filter(|_| file.plain.is_bare())?;
    let mut modes = vec![ReadMode::Direct, ReadMode::Buffered];
    if file.reading(ReadMode::Uring).path == super::ReadPath::Uring {
        modes.push(ReadMode::Uring);
    }
    let stretches = cold_stretches(file, modes.len() * ROUNDS)?;
    // In huge pages, as memory that is meant for much is.
    let mut memory = Aligned::new(STRETCH_BYTES as usize, align.max(HUGE_PAGE));
    // Faults of fresh pages are not the disk's.
    memory.bytes_mut().fill(1);
    let mut rates = vec![Vec::new(); modes.len()];
    for (i, offset) in stretches.into_iter().enumerate() {
        let way = i % modes.len();
        rates[way].push(rate(file, modes[way], offset, memory.bytes_mut())?);
    }
    // Who has the disk besides may be fast or slow at any moment: another way is taken if its slowest is worth it.
    let slowest = |way: usize| rates.get(way).map(|r| r.iter().copied().fold(f64::INFINITY, f64::min));
    let direct = rates[0].iter().copied().fold(0.0, f64::max);
    Some(Probe { direct, buffered: slowest(1)?, uring: slowest(2) })
}

/// Bytes per second of one stretch; `None` if reading fails, which whoever needs the bytes will find out.
fn rate(file: &StoredFile, mode: ReadMode, offset: u64, dst: &mut [u8]) -> Option<f64> {
    // Not in the line of the process: what is measured is the disk, and it is little.
    let (pool, queue, cancel) = (Pool::default(), ReadQueue::new(2 * STRETCH_BYTES), CancelToken::new());
    let priority = Priority::Urgent;
    let terms = Terms { mode, pool: &pool, queue: &queue, priority, cancel: &cancel, streamed: false };
    let start = Instant::now();
    let len = dst.len();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    cut(Piece { id: FileId(0), file, offset, dst, at: 0, len }, &mut tasks);
    let read = match mode {
        // As `Auto` would.
        ReadMode::Buffered => share(tasks, len, THREADS, |task| match task {
            Task::One(piece) => file.pass_through(piece).map(drop).map_err(drop),
            Task::Joint(_) => Err(()),
        }),
        _ => read_all(&terms, tasks).map_err(drop),
    };
    let seconds = start.elapsed().as_secs_f64();
    read.ok().map(|()| len as f64 / seconds.max(1e-9))
}

/// Where stretches begin of which the page cache holds nothing, spread over the file from its end.
fn cold_stretches(file: &StoredFile, count: usize) -> Option<Vec<u64>> {
    let all = file.bytes() / STRETCH_BYTES;
    let is_cold = |&offset: &u64| cached(file.plain.file(), offset, STRETCH_BYTES) == Cached::None;
    let step = (all / (4 * count as u64)).max(1) as usize;
    let found: Vec<u64> =
        (0..all).rev().step_by(step).map(|i| i * STRETCH_BYTES).filter(is_cold).take(count).collect();
    (found.len() == count).then_some(found)
}

/// Bytes of a page, by which the system counts what it holds.
#[cfg(target_os = "linux")]
pub(crate) fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn page_bytes() -> u64 {
    4096
}
