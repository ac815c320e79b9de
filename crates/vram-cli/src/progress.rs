//! A progress bar for what takes longer than a second, where a person watches.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PATIENCE: Duration = Duration::from_secs(1);

const BYTES: &str = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left";
const PASSES: &str = "{msg} {wide_bar} {eta} left";

/// Steps of a pass on its bar.
const STEPS: u64 = 1000;
/// How often a running pass is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How far a running pass is: the unit of weights that it computes with, counted from 1, and how many there are.
pub(crate) type At = (usize, usize);

/// Counts bytes or passes from any thread.
pub(crate) struct Progress {
    what: &'static str,
    template: &'static str,
    total: u64,
    done: AtomicU64,
    start: Instant,
    watched: bool,
    bar: OnceLock<ProgressBar>,
}

impl Progress {
    /// Counts bytes.
    pub(crate) fn new(what: &'static str, total: u64) -> Progress {
        Progress::counting(what, BYTES, total)
    }

    /// Counts passes of a network.
    pub(crate) fn passes(total: u64) -> Progress {
        Progress::counting("running passes", PASSES, total.saturating_mul(STEPS))
    }

    fn counting(what: &'static str, template: &'static str, total: u64) -> Progress {
        let watched = std::io::stderr().is_terminal();
        Progress {
            what,
            template,
            total,
            done: AtomicU64::new(0),
            start: Instant::now(),
            watched,
            bar: OnceLock::new(),
        }
    }

    pub(crate) fn add(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        if let Some(bar) = self.bar() {
            bar.set_position(done);
        }
    }

    /// Runs one of the passes. Where a person watches, `at` is asked again and again how far it is.
    pub(crate) fn pass<R>(&self, at: impl Fn() -> Option<At> + Send, run: impl FnOnce() -> R) -> R {
        let (running, ended) = channel::<()>();
        let watch = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TICK) {
                if let (Some(bar), Some(at)) = (self.bar(), at()) {
                    let (position, message) = within(self.done.load(Ordering::Relaxed), self.total, at);
                    bar.set_message(message);
                    bar.set_position(position);
                }
            }
        };
        let result = thread::scope(|scope| {
            // Owned here, so that the watch ends with a pass that panics as well.
            let _running = running;
            if self.watched {
                scope.spawn(watch);
            }
            run()
        });
        self.add(STEPS);
        result
    }

    /// The bar, once it is time for one.
    fn bar(&self) -> Option<&ProgressBar> {
        let due = self.watched && self.start.elapsed() > PATIENCE;
        due.then(|| self.bar.get_or_init(|| bar(self.what, self.template, self.total)))
    }

    /// Takes the bar away and says how long it took.
    pub(crate) fn finish(&self) -> Duration {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
        self.start.elapsed()
    }
}

/// Where the bar of the passes stands within a pass, and what it says.
fn within(done: u64, total: u64, (unit, units): At) -> (u64, String) {
    let position = done + STEPS * unit.saturating_sub(1) as u64 / units.max(1) as u64;
    let (pass, passes) = (done / STEPS + 1, total / STEPS);
    (position, format!("pass {pass} of {passes}, unit {unit} of {units}"))
}

fn bar(what: &'static str, template: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(total).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_moves_within_a_pass() {
        let said = |position, text: &str| (position, text.to_owned());
        assert_eq!(within(0, 2 * STEPS, (1, 4)), said(0, "pass 1 of 2, unit 1 of 4"));
        assert_eq!(within(STEPS, 2 * STEPS, (4, 4)), said(STEPS + 750, "pass 2 of 2, unit 4 of 4"));
        assert_eq!(within(0, STEPS, (0, 0)).0, 0);
    }

    #[test]
    fn a_pass_gives_its_result_and_ends_its_watch() {
        let mut progress = Progress::passes(2);
        progress.watched = true;
        let asked = std::sync::atomic::AtomicBool::new(false);
        let at = || {
            asked.store(true, Ordering::Relaxed);
            None
        };
        progress.start -= 2 * PATIENCE;
        let result = progress.pass(at, || {
            while !asked.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            7
        });
        assert_eq!((result, progress.done.load(Ordering::Relaxed)), (7, STEPS));
        progress.finish();
    }
}
