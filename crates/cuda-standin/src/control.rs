//! What tests ask of the stand-in itself, found by `dlsym`, and its report at exit.

use std::ffi::c_char;
use std::sync::Once;

use crate::out::{put, put_text, text};
use crate::state::{State, guarded, lock};
use crate::status::Status;

/// Status of a process that misused the driver or leaked, where the setting `strict` is 1.
const STRICT_STATUS: i32 = 86;

/// Changes a [setting](crate::config). 0 if there is one of that name, else `CUDA_ERROR_INVALID_VALUE`.
#[unsafe(no_mangle)]
extern "C" fn standin_set(name: *const c_char, value: i64) -> u32 {
    guarded("standin_set", |state| {
        if state.config.set(&text(name)?, value) { Ok(()) } else { Err(Status::INVALID_VALUE) }
    })
}

/// Forgets everything, live objects and faults and all, and reads the environment again. What was handed out is void.
#[unsafe(no_mangle)]
extern "C" fn standin_reset() -> u32 {
    guarded("standin_reset", |state| {
        state.reset();
        Ok(())
    })
}

/// Forgets misuse and leaks that were recorded, for tests that provoke them.
#[unsafe(no_mangle)]
extern "C" fn standin_forgive() -> u32 {
    guarded("standin_forgive", |state| {
        (state.misuse, state.leaks) = Default::default();
        state.books.misuses = 0;
        Ok(())
    })
}

/// Writes the first `count` figures of [`Books`](crate::books::Books), in their order, and gives how many there are.
#[unsafe(no_mangle)]
extern "C" fn standin_books(figures: *mut u64, count: usize) -> usize {
    let all = lock().books.figures();
    for (i, figure) in all.iter().take(count).enumerate() {
        if put(figures.wrapping_add(i), *figure).is_err() {
            return 0;
        }
    }
    all.len()
}

/// Makes the highest figures those of now, so that a test sees its own.
#[unsafe(no_mangle)]
extern "C" fn standin_new_peaks() -> u32 {
    guarded("standin_new_peaks", |state| {
        state.books.peak_bytes = state.books.live_bytes;
        state.books.peak_pinned_bytes = state.books.pinned_bytes;
        Ok(())
    })
}

/// Writes misuse, leaks and what is alive, one line each, and a zero: as much as fits into `room` bytes. Gives the bytes
/// that all of it takes, zero included; 1 if there is nothing to report.
#[unsafe(no_mangle)]
extern "C" fn standin_report(report: *mut c_char, room: usize) -> usize {
    let text = lock().report();
    if !report.is_null() && put_text(report, room, &text).is_err() {
        return 0;
    }
    text.len() + 1
}

impl State {
    /// Misuse, leaks and what is alive, one line each.
    fn report(&self) -> String {
        let kinds =
            [("misuse", self.misuse.lines()), ("leak", self.leaks.lines()), ("alive", self.remains())];
        let lines = kinds
            .into_iter()
            .flat_map(|(kind, lines)| lines.into_iter().map(move |l| format!("{kind}: {l}\n")));
        lines.collect()
    }

    /// Begins anew.
    fn reset(&mut self) {
        let numbers: Vec<u64> = self.blocks.iter().map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| crate::driver::release(self, number));
        let old = std::mem::replace(self, Self::fresh());
        self.continue_from(old);
    }
}

/// Sees to it, once, that the report is written when the process exits.
pub(crate) fn report_at_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function is there as long as the process: the library is never unloaded.
        unsafe { libc::atexit(at_exit) };
    });
}

extern "C" fn at_exit() {
    let state = lock();
    let report = state.report();
    if report.is_empty() {
        return;
    }
    for line in report.lines() {
        eprintln!("cuda-standin: {line}");
    }
    if state.config.strict != 0 {
        // SAFETY: it has no preconditions, and ends the process without running what else was to run.
        unsafe { libc::_exit(STRICT_STATUS) };
    }
}
