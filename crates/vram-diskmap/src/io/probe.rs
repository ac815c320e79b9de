//! A short measurement of the ways in which cold bytes of a file can be read.

use std::time::Instant;

use vram_types::{FileId, ReadOptions};

use super::aligned::{Aligned, HUGE_PAGE, Pool};
use super::cache::{Cached, cached};
use super::local::LocalFile;
use super::mode::{ReadMode, ReadPath};
use super::mount::Rates;
use super::perform::perform;
use super::piece::Piece;
use super::queue::ReadQueue;
use super::stored::FileRef;
use super::task::{Read, Task, cut};
use super::terms::Terms;
use super::threads::{THREADS, share};

/// Bytes that one measurement reads.
const STRETCH_BYTES: u64 = 8 << 20;
/// How often each way is measured; the ways take turns.
const ROUNDS: usize = 2;

/// Probes the mount of a file if that is due. Of a file that is short, cached or read through
/// something there is nothing to learn; another one may come.
pub(super) fn if_due(file: &LocalFile) {
    if file.mount.is_due()
        && let Some(rates) = probe(file)
    {
        file.mount.learn(rates);
    }
}

/// Measures the mount of a file by reading cold stretches of it, each once; the page cache is left
/// as it was. `None` if the file has too few of them, cannot be read directly, or is read through
/// something.
fn probe(file: &LocalFile) -> Option<Rates> {
    let align = file.direct.alignment(&file.plain, file.path()).filter(|_| file.plain.is_bare())?;
    let mut modes = vec![ReadMode::Direct, ReadMode::Buffered];
    if file.reading(ReadMode::Uring).path == ReadPath::Uring {
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
    // Who has the disk besides may be fast or slow at any moment: another way is taken if its
    // slowest is worth it.
    let slowest = |way: usize| rates.get(way).map(|r| r.iter().copied().fold(f64::INFINITY, f64::min));
    let direct = rates[0].iter().copied().fold(0.0, f64::max);
    Some(Rates { direct, buffered: slowest(1)?, uring: slowest(2) })
}

/// Bytes per second of one stretch; `None` if reading fails, which whoever needs the bytes will
/// find out.
fn rate(file: &LocalFile, mode: ReadMode, offset: u64, dst: &mut [u8]) -> Option<f64> {
    // Not in the line of the process: what is measured is the disk, and it is little.
    let (pool, queue) = (Pool::default(), ReadQueue::new(2 * STRETCH_BYTES));
    let terms = Terms { mode, pool: &pool, queue: &queue, options: &ReadOptions::BLOCKING, streamed: false };
    let start = Instant::now();
    let len = dst.len();
    let mut tasks: Vec<Task<'_>> = Vec::new();
    cut(
        Read { id: FileId(0), file: FileRef::Local(file), piece: Piece { offset, dst, at: 0, len } },
        &mut tasks,
    );
    let read = match mode {
        // As `Auto` would.
        ReadMode::Buffered => share(tasks, len, THREADS, |task| match task {
            Task::One(read) => file.pass_through(read.piece).map(drop).map_err(drop),
            Task::Joint(_) => Err(()),
        }),
        _ => perform(&terms, tasks).map_err(drop),
    };
    let seconds = start.elapsed().as_secs_f64();
    read.ok().map(|()| len as f64 / seconds.max(1e-9))
}

/// Where stretches begin of which the page cache holds nothing, spread over the file from its end.
fn cold_stretches(file: &LocalFile, count: usize) -> Option<Vec<u64>> {
    let all = file.bytes() / STRETCH_BYTES;
    let is_cold = |&offset: &u64| cached(file.plain.file(), offset, STRETCH_BYTES) == Cached::None;
    let step = (all / (4 * count as u64)).max(1) as usize;
    let found: Vec<u64> =
        (0..all).rev().step_by(step).map(|i| i * STRETCH_BYTES).filter(is_cold).take(count).collect();
    (found.len() == count).then_some(found)
}
