//! Reads past the page cache by io_uring: one thread with many reads on their way.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use io_uring::{IoUring, opcode, types};
use vram_types::SourceError;

use super::aligned::Aligned;
use super::cache::{Cached, cached};
use super::local::LocalFile;
use super::mode::{ReadMode, ReadPath};
use super::queue::Permit;
use super::task::{Failed, Read, Task};
use super::terms::{LEAST_DIRECT_BYTES, Terms};

/// Reads on their way in one ring.
const DEPTH: usize = 16;
/// Rings kept for the next batch; making one takes as long as reading some hundred KiB.
const MOST_KEPT: usize = 8;

static KEPT: Mutex<Vec<IoUring>> = Mutex::new(Vec::new());

/// Why the system gives no rings; `None` if it does.
pub(crate) fn refusal() -> Option<String> {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    REFUSAL.get_or_init(|| make().map(keep).err().map(|e| e.to_string())).clone()
}

/// A ring that has shown that it works: a sandbox may refuse to make one, or to use it.
fn make() -> io::Result<IoUring> {
    let mut ring = IoUring::new(DEPTH as u32)?;
    // SAFETY: the operation touches no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().map(|done| done.result());
    match done {
        Some(0) => Ok(ring),
        other => Err(io::Error::other(format!("it answers {other:?} to an empty operation"))),
    }
}

fn take() -> Option<IoUring> {
    let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
    kept.or_else(|| make().ok())
}

fn keep(ring: IoUring) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < MOST_KEPT {
        kept.push(ring);
    }
}

/// Reads of a batch what is to be read by a ring. Returns the rest, which is for threads: what the
/// page cache holds, what cannot be read in this way, and what came short.
pub(crate) fn read_cold<'a>(terms: &Terms<'_>, tasks: Vec<Task<'a>>) -> Result<Vec<Task<'a>>, Failed> {
    let wanted = |task: &Task<'_>| is_wanted(terms, task);
    if !matches!(terms.mode, ReadMode::Auto | ReadMode::Uring)
        || !tasks.first().is_some_and(wanted)
        || refusal().is_some()
    {
        return Ok(tasks);
    }
    let Some(mut ring) = take() else { return Ok(tasks) };
    let (cold, mut rest): (Vec<_>, Vec<_>) =
        tasks.into_iter().partition(|task| wanted(task) && is_cold(terms, task));
    let mut run =
        Run { terms, ring: &mut ring, flights: [const { None }; DEPTH], in_flight: 0, spare: Vec::new() };
    let result = run.all(cold, &mut rest);
    drop(run);
    keep(ring);
    result.map(|()| rest)
}

/// The task's file, and the first byte that is read of it; `None` for what is not on this machine.
fn local<'a>(task: &Task<'a>) -> Option<(&'a LocalFile, u64)> {
    let (_, file, offset) = task.begins()?;
    Some((file.local()?, offset))
}

/// Whether the task's file is to be read by a ring, and can be.
fn is_wanted(terms: &Terms<'_>, task: &Task<'_>) -> bool {
    let Some((file, _)) = local(task) else { return false };
    let chosen = terms.mode == ReadMode::Uring || file.mount.path() == ReadPath::Uring;
    chosen
        && file.plain.is_bare()
        && file.map().is_none()
        && file.direct.open(&file.plain, file.path()).is_some()
}

fn is_cold(terms: &Terms<'_>, task: &Task<'_>) -> bool {
    let Some((file, offset)) = local(task) else { return false };
    terms.mode == ReadMode::Uring
        || task.bytes() >= LEAST_DIRECT_BYTES
            && cached(file.plain.file(), offset, task.bytes() as u64) == Cached::None
}

/// A read on its way.
struct Flight<'a, 'q> {
    task: Task<'a>,
    /// Where it goes if not straight to its place.
    buffer: Option<Aligned>,
    /// Bytes before the wanted ones, to the sector's border.
    before: usize,
    /// Bytes asked of the system: whole sectors.
    len: usize,
    _permit: Option<Permit<'q>>,
}

/// A batch on a ring. When it is dropped nothing is on its way any more.
struct Run<'r, 'a> {
    terms: &'r Terms<'r>,
    ring: &'r mut IoUring,
    /// Invariant: the memory of a read stays in here until its completion has been taken from the
    /// ring.
    flights: [Option<Flight<'a, 'r>>; DEPTH],
    in_flight: usize,
    spare: Vec<Aligned>,
}

impl<'r, 'a> Run<'r, 'a> {
    fn all(&mut self, cold: Vec<Task<'a>>, rest: &mut Vec<Task<'a>>) -> Result<(), Failed> {
        for task in cold {
            self.terms.options.check().map_err(|error| task.failed(error))?;
            while self.in_flight == DEPTH {
                self.finish_one(rest)?;
            }
            let permit = self.permit(&task, rest)?;
            self.submit(task, permit).map_err(io_failed)?;
        }
        while self.in_flight > 0 {
            self.finish_one(rest)?;
        }
        Ok(())
    }

    /// Waits for its turn; while reads of its own are on their way it waits for those.
    fn permit(&mut self, task: &Task<'a>, rest: &mut Vec<Task<'a>>) -> Result<Option<Permit<'r>>, Failed> {
        let (terms, bytes) = (self.terms, task.bytes());
        if bytes < LEAST_DIRECT_BYTES {
            return Ok(None);
        }
        loop {
            if let Some(permit) = terms.queue.try_enter(bytes as u64, terms.options.priority) {
                return Ok(Some(permit));
            }
            if self.in_flight == 0 {
                let permit = terms.queue.enter(bytes as u64, terms.options);
                return permit.map(Some).map_err(|error| task.failed(error));
            }
            self.finish_one(rest)?;
        }
    }

    fn submit(&mut self, mut task: Task<'a>, permit: Option<Permit<'r>>) -> io::Result<()> {
        let Some((file, offset)) = local(&task) else { return Ok(()) };
        let Some((direct, align)) = file.direct.open(&file.plain, file.path()) else { return Ok(()) };
        let before = (offset % *align as u64) as usize;
        let len = (before + task.bytes()).next_multiple_of(*align);
        let mut buffer = None;
        let memory = match straight(&mut task, before, len, *align) {
            Some(memory) => memory,
            None => {
                let fits = |spare: &Aligned| spare.fits(len, *align);
                let spare = self.spare.iter().position(fits).map(|i| self.spare.swap_remove(i));
                buffer.insert(spare.unwrap_or_else(|| Aligned::new(len, *align))).bytes_mut()
            }
        };
        let number = self.flights.iter().position(Option::is_none).unwrap_or(0);
        let read = opcode::Read::new(types::Fd(direct.file().as_raw_fd()), memory.as_mut_ptr(), len as u32)
            .offset(offset - before as u64)
            .build()
            .user_data(number as u64);
        self.flights[number] = Some(Flight { task, buffer, before, len, _permit: permit });
        // SAFETY: `memory` has at least `len` bytes, borrowed mutably by the task or owned by the buffer, and both stay in
        // `flights` until the completion of this read is taken; `Run` waits for that even when it
        // is dropped. The descriptor belongs to the file, which the task borrows.
        unsafe { self.ring.submission().push(&read) }.map_err(io::Error::other)?;
        self.in_flight += 1;
        match self.ring.submit() {
            Err(e) if !is_passing(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// Waits for a read and puts its bytes in place.
    fn finish_one(&mut self, rest: &mut Vec<Task<'a>>) -> Result<(), Failed> {
        let (mut flight, result) = self.next_done().map_err(io_failed)?;
        let wanted = flight.before + flight.task.bytes();
        let got = match usize::try_from(result) {
            Ok(got) => got.min(flight.len),
            Err(_) => match io::Error::from_raw_os_error(-result) {
                // A file system that opens the file and then refuses the read.
                e if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => 0,
                e if is_passing(&e) => 0,
                e => return Err(failed(&flight.task, e)),
            },
        };
        if got < wanted {
            // A thread reads it again, and tells a short read from the end of the file.
            rest.push(flight.task);
            return Ok(());
        }
        if let Some(buffer) = flight.buffer.take() {
            place(&mut flight.task, &buffer.bytes()[flight.before..wanted]);
            self.spare.push(buffer);
        }
        if let (ReadMode::Auto, Some((file, _))) = (self.terms.mode, local(&flight.task)) {
            file.mount.has_given(flight.task.bytes() as u64);
        }
        Ok(())
    }

    /// The next read that is done, and what the system says of it.
    fn next_done(&mut self) -> io::Result<(Flight<'a, 'r>, i32)> {
        loop {
            if let Some(done) = self.ring.completion().next() {
                let flight = self.flights.get_mut(done.user_data() as usize).and_then(Option::take);
                self.in_flight -= usize::from(flight.is_some());
                if let Some(flight) = flight {
                    return Ok((flight, done.result()));
                }
                continue;
            }
            match self.ring.submit_and_wait(1) {
                Err(e) if !is_passing(&e) => return Err(e),
                _ => {}
            }
        }
    }
}

impl Drop for Run<'_, '_> {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if self.next_done().is_err() {
                // The system may still write into memory that the caller is about to have back.
                eprintln!("vram-diskmap: io_uring no longer answers while reads are on their way");
                std::process::abort();
            }
        }
    }
}

/// The whole sectors around a single piece, where they lie in its own memory at the right address.
fn straight<'t>(task: &'t mut Task<'_>, before: usize, len: usize, align: usize) -> Option<&'t mut [u8]> {
    let Task::One(Read { piece, .. }) = task else { return None };
    let start = piece.at.checked_sub(before)?;
    let memory = piece.dst.get_mut(start..start.checked_add(len)?)?;
    (memory.as_ptr() as usize).is_multiple_of(align).then_some(memory)
}

/// Copies what came by a buffer to where it goes.
fn place(task: &mut Task<'_>, bytes: &[u8]) {
    match task {
        Task::One(read) => read.piece.wanted().copy_from_slice(bytes),
        Task::Joint(joint) => joint.scatter(bytes),
    }
}

fn is_passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy)
}

fn failed(task: &Task<'_>, e: io::Error) -> Failed {
    let error = SourceError::io(e);
    task.failed(match local(task) {
        Some((file, offset)) => error.at_path(file.path()).at_offset(offset),
        None => error,
    })
}

/// The ring itself failed, not a read.
fn io_failed(e: io::Error) -> Failed {
    Failed { place: None, error: Box::new(SourceError::io(e)) }
}
