//! A weight source on a simulated disk.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vram_types::{
    FileId, FileRange, HostBytes, Located, ReadOptions, ReadRequest, ReadTarget, SourceError,
    SourceErrorKind, WeightSource,
};

use super::Sim;
use super::profile::{nanoseconds, ns};

/// Speed of a simulated disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiskProfile {
    /// Bytes per second of all readers together.
    pub bytes_per_second: f64,
    /// Fixed time of each call.
    pub latency: Duration,
}

/// A fault of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskFault {
    /// [`SourceErrorKind::Io`], before any byte is read.
    Error {
        /// Whether the error says that a retry may help.
        retryable: bool,
    },
    /// Half of the bytes arrive, then [`SourceErrorKind::Truncated`].
    Short,
    /// The source panics, with a `&'static str` that ends in `simulated panic`.
    Panic,
    /// The read takes this much longer, in virtual time.
    Slow(Duration),
}

/// Statistics of reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Calls of [`WeightSource::read_many`].
    pub reads: u64,
    /// Bytes that they requested.
    pub bytes: u64,
    /// Faults that occurred.
    pub faults: u64,
}

/// Any [`WeightSource`] with faults, and with a disk's speed in the virtual time of a [`Sim`].
///
/// Reads are performed one after the other. A read begins when both the requesting thread and the disk are
/// ready. Windows of a memory map are passed through without faults or delays, because mapping is not
/// reading.
pub struct SimSource {
    inner: Arc<dyn WeightSource>,
    clock: Option<(Arc<Sim>, DiskProfile)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: Vec<(u64, DiskFault)>,
    /// Reads since the faults were declared.
    since: u64,
    usage: DiskUsage,
    /// When the disk is free, in nanoseconds.
    free: u64,
}

impl SimSource {
    /// Without faults or delays.
    pub fn new(inner: Arc<dyn WeightSource>) -> SimSource {
        SimSource { inner, clock: None, state: Mutex::default() }
    }

    /// Makes reads take time on the clock of a simulated device.
    #[must_use]
    pub fn timed(mut self, sim: Arc<Sim>, profile: DiskProfile) -> SimSource {
        self.clock = Some((sim, profile));
        self
    }

    /// Declares faults by the index of the read, counted from 1.
    #[must_use]
    pub fn with_faults(self, faults: Vec<(u64, DiskFault)>) -> SimSource {
        self.set_faults(faults);
        self
    }

    /// Replaces the declared faults; reads are counted anew from here.
    pub fn set_faults(&self, faults: Vec<(u64, DiskFault)>) {
        let mut state = self.state();
        (state.faults, state.since) = (faults, 0);
    }

    /// What was read so far.
    pub fn usage(&self) -> DiskUsage {
        self.state().usage
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No caller code runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a read, lets its time pass, and returns its fault, if any.
    fn begin(&self, bytes: u64) -> Option<DiskFault> {
        let mut state = self.state();
        state.since += 1;
        let since = state.since;
        let fault = state.faults.iter().find(|(at, _)| *at == since).map(|(_, fault)| *fault);
        state.usage.reads += 1;
        state.usage.bytes += bytes;
        state.usage.faults += u64::from(fault.is_some());
        if let Some((sim, profile)) = &self.clock {
            let slow = match fault {
                Some(DiskFault::Slow(time)) => nanoseconds(time),
                _ => 0,
            };
            let time = nanoseconds(profile.latency)
                .saturating_add(ns(bytes as f64 / profile.bytes_per_second))
                .saturating_add(slow);
            state.free = state.free.max(nanoseconds(sim.now())).saturating_add(time);
            sim.advance_to(Duration::from_nanos(state.free));
        }
        fault
    }

    fn error(&self, kind: SourceErrorKind, request: &ReadRequest<'_>, retryable: bool) -> SourceError {
        let e = SourceError::new(kind, "declared for this read").retryable(retryable);
        match request.target {
            ReadTarget::Tensor { name, offset } => e.at_tensor(name).at_offset(offset),
            ReadTarget::File { file, offset } => match self.inner.describe(file) {
                Some(name) => e.at_file(name).at_offset(offset),
                None => e.at_offset(offset),
            },
        }
    }

    /// Reads half of the requests and half of the next one, then fails.
    fn fall_short(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        let half = requests.len() / 2;
        let (whole, rest) = requests.split_at_mut(half);
        self.inner.read_many(whole, options)?;
        let Some(request) = rest.first_mut() else { return Ok(()) };
        let (bytes, at, target) = (request.bytes / 2, request.at, request.target);
        let part = ReadRequest { target, bytes, dst: request.dst, at };
        self.inner.read_many(&mut [part], options)?;
        Err(self.error(SourceErrorKind::Truncated, request, false))
    }
}

impl WeightSource for SimSource {
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        self.inner.names()
    }

    fn locate(&self, name: &str) -> Option<Located> {
        self.inner.locate(name)
    }

    fn unreadable_tensors(&self) -> Vec<(String, String)> {
        self.inner.unreadable_tensors()
    }

    fn stored_bytes(&self, name: &str) -> Option<u64> {
        self.inner.stored_bytes(name)
    }

    fn describe(&self, file: FileId) -> Option<Cow<'_, str>> {
        self.inner.describe(file)
    }

    fn read_many(&self, requests: &mut [ReadRequest<'_>], options: &ReadOptions) -> Result<(), SourceError> {
        let fault = self.begin(requests.iter().map(|r| r.bytes).sum());
        match (fault, requests.first()) {
            (Some(DiskFault::Panic), _) => std::panic::panic_any("a simulated panic"),
            (Some(DiskFault::Short), _) => self.fall_short(requests, options),
            (Some(DiskFault::Error { retryable }), Some(first)) => {
                Err(self.error(SourceErrorKind::Io, first, retryable))
            }
            _ => self.inner.read_many(requests, options),
        }
    }

    fn map(&self, range: FileRange) -> Option<Result<Arc<dyn HostBytes>, SourceError>> {
        self.inner.map(range)
    }

    fn alignment(&self) -> u64 {
        self.inner.alignment()
    }

    fn bytes_read(&self) -> u64 {
        self.inner.bytes_read()
    }
}

impl fmt::Debug for SimSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimSource")
            .field("disk", &self.clock.as_ref().map(|(_, profile)| profile))
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}
