//! Measures how fast a link is: bytes over the time in which any transfer was in flight.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::plan::costs::Link;
use crate::sync::{Mutex, MutexGuard};

/// Fewer bytes than this are not a meaningful measurement.
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
    /// Runs a transfer of `bytes` and measures it.
    pub(crate) fn measure<T, E>(&self, bytes: u64, transfer: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let under_way = UnderWay::begin(self);
        let result = transfer();
        if result.is_ok() {
            under_way.0.reading().bytes += bytes;
        }
        result
    }

    /// The measurement since the last call, if it is meaningful.
    pub(crate) fn take(&self) -> Option<Link> {
        let mut reading = self.reading();
        // Transfers in flight count up to now: readers that are never idle between two passes have been busy
        // all along.
        let now = Instant::now();
        if let Some(since) = reading.since.replace(now) {
            reading.busy += now - since;
        }
        if reading.active == 0 {
            reading.since = None;
        }
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

/// A transfer in progress; it also ends if the source panics.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sleep(bytes: u64, meter: &Meter, wait: Duration) {
        meter
            .measure(bytes, || {
                std::thread::sleep(wait);
                Ok::<(), ()>(())
            })
            .unwrap();
    }

    #[test]
    fn transfers_that_are_under_way_all_the_time_are_timed() {
        let meter = &Meter::default();
        let wait = Duration::from_millis(60);
        std::thread::scope(|scope| {
            let long = scope.spawn(|| sleep(0, meter, 4 * wait));
            while meter.reading().active == 0 {
                std::thread::yield_now();
            }
            sleep(ENOUGH_BYTES, meter, wait);
            let first = meter.take().unwrap().bytes_per_second;
            assert!(first <= ENOUGH_BYTES as f64 / wait.as_secs_f64(), "{first} bytes per second");
            // The time before the first look must not be counted twice.
            let since = Instant::now();
            sleep(ENOUGH_BYTES, meter, wait);
            let second = meter.take().unwrap().bytes_per_second;
            let least = ENOUGH_BYTES as f64 / since.elapsed().as_secs_f64();
            assert!(second > 0.99 * least, "{second} of {least} bytes per second");
            long.join().unwrap();
        });
        assert!(meter.take().is_none(), "no bytes since");
    }

    #[test]
    fn nothing_is_told_of_too_little() {
        let meter = Meter::default();
        sleep(ENOUGH_BYTES - 1, &meter, Duration::from_millis(1));
        assert!(meter.take().is_none());
        sleep(1, &meter, Duration::from_millis(1));
        assert!(meter.take().is_some());
    }
}
