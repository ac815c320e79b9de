//! What the driver says is held, looked at from another thread while something runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use vram_device::{Kernels, Queue};

use crate::Outcome;

/// Between two looks.
const PAUSE: Duration = Duration::from_micros(500);

/// The most bytes of the card that were taken at any look, beyond what was taken before; `None` where the device does not tell.
pub(crate) fn most_taken<R>(device: &dyn Kernels, run: impl FnOnce() -> R) -> Outcome<(R, Option<u64>)> {
    // What was given back before is free once nothing uses it.
    for queue in [Queue::Copy, Queue::Compute] {
        device.wait(device.ticket(queue)?)?;
    }
    let Ok(before) = device.memory() else { return Ok((run(), None)) };
    let (least, over) = (AtomicU64::new(before.free), AtomicBool::new(false));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                if let Ok(now) = device.memory() {
                    least.fetch_min(now.free, Ordering::AcqRel);
                }
                std::thread::sleep(PAUSE);
            }
        });
        let result = run();
        over.store(true, Ordering::Release);
        result
    });
    Ok((result, Some(before.free.saturating_sub(least.into_inner()))))
}
