//! How fast a link is: bytes over the time in which anything at all was under way.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::costs::Link;
use crate::sync::{Mutex, MutexGuard};

/// Less than this says nothing of a link.
const ENOUGH_BYTES: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Meter(Mutex<Reading>);

#[derive(Debug, Default)]
struct Reading {
    active: u32,
    since: Option<Instant>,
    busy: Duration,
    bytes: u64,
}

impl Meter {
    /// Runs a transfer of so many bytes.
    pub(crate) fn measure<T, E>(&self, bytes: u64, transfer: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let under_way = UnderWay::begin(self);
        let result = transfer();
        if result.is_ok() {
            under_way.0.reading().bytes += bytes;
        }
        result
    }

    /// What was measured since the last time, if it says anything.
    pub(crate) fn take(&self) -> Option<Link> {
        let mut reading = self.reading();
        if reading.bytes < ENOUGH_BYTES || reading.busy.is_zero() {
            return None;
        }
        let bytes_per_second = reading.bytes as f64 / reading.busy.as_secs_f64();
        (reading.bytes, reading.busy) = (0, Duration::ZERO);
        Some(Link { bytes_per_second, latency_seconds: 0.0 })
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        // Counts are changed in one step each.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer in progress; also over when the source panics.
struct UnderWay<'a>(&'a Meter);

impl UnderWay<'_> {
    fn begin(meter: &Meter) -> UnderWay<'_> {
        let mut reading = meter.reading();
        if reading.active == 0 {
            reading.since = Some(Instant::now());
        }
        reading.active += 1;
        drop(reading);
        UnderWay(meter)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut reading = self.0.reading();
        reading.active -= 1;
        if reading.active == 0
            && let Some(since) = reading.since.take()
        {
            reading.busy += since.elapsed();
        }
    }
}
