//! Functions for tests that control the stand-in itself, found with `dlsym`, and its report at
//! exit.

use std::ffi::c_char;
use std::sync::Once;

use crate::out::{put, put_text, text};
use crate::state::{State, guarded, lock};
use crate::status::Status;

/// Exit status of a process that misused the driver or leaked, if the setting `strict` is 1.
const STRICT_STATUS: i32 = 86;

/// Changes a [setting](crate::config). Returns 0, or `CUDA_ERROR_INVALID_VALUE` if there is no
/// such setting.
#[unsafe(no_mangle)]
extern "C" fn standin_set(name: *const c_char, value: i64) -> u32 {
    guarded("standin_set", |state| {
        if state.config.set(&text(name)?, value) { Ok(()) } else { Err(Status::INVALID_VALUE) }
    })
}

/// Resets everything, including live objects and faults, and reads the environment again. Existing
/// handles become invalid.
#[unsafe(no_mangle)]
extern "C" fn standin_reset() -> u32 {
    guarded("standin_reset", |state| {
        state.reset();
        Ok(())
    })
}

/// Clears recorded misuse and leaks, for tests that provoke them.
#[unsafe(no_mangle)]
extern "C" fn standin_forgive() -> u32 {
    guarded("standin_forgive", |state| {
        (state.misuse, state.leaks) = Default::default();
        state.books.misuses = 0;
        Ok(())
    })
}

/// Writes the first `count` figures of [`Books`](crate::books::Books), in order, and returns how
/// many there are.
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

/// Sets the peaks to the current figures, so that a test sees its own peaks.
#[unsafe(no_mangle)]
extern "C" fn standin_new_peaks() -> u32 {
    guarded("standin_new_peaks", |state| {
        state.books.peak_bytes = state.books.live_bytes;
        state.books.peak_pinned_bytes = state.books.pinned_bytes;
        Ok(())
    })
}

/// Writes misuse, leaks and live objects, one line each, and a zero, as far as `room` bytes
/// permit. Returns the bytes that all of it takes, including the zero; 1 if there is nothing to
/// report.
#[unsafe(no_mangle)]
extern "C" fn standin_report(report: *mut c_char, room: usize) -> usize {
    let text = lock().report();
    if !report.is_null() && put_text(report, room, &text).is_err() {
        return 0;
    }
    text.len() + 1
}

impl State {
    /// Misuse, leaks and live objects, one line each.
    fn report(&self) -> String {
        let kinds =
            [("misuse", self.misuse.lines()), ("leak", self.leaks.lines()), ("alive", self.remains())];
        let lines = kinds
            .into_iter()
            .flat_map(|(kind, lines)| lines.into_iter().map(move |l| format!("{kind}: {l}\n")));
        lines.collect()
    }

    /// Resets the state.
    fn reset(&mut self) {
        let numbers: Vec<u64> = self.blocks.iter().map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| crate::driver::release(self, number));
        let old = std::mem::replace(self, Self::fresh());
        self.continue_from(old);
    }
}

/// Registers the report at exit, once.
pub(crate) fn report_at_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function exists as long as the process: the library is never unloaded.
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
        // SAFETY: it has no preconditions, and ends the process without running other exit
        // handlers.
        unsafe { libc::_exit(STRICT_STATUS) };
    }
}
