//! A progress bar for work that takes longer than a second, if stderr is a terminal.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::terminal;

const PATIENCE: Duration = Duration::from_secs(1);

const BYTES: &str = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {left} left";
const PASSES: &str = "{msg} {wide_bar} {left} left";

/// Steps of the bar per pass.
const STEPS: u64 = 1000;
/// Counts bytes or passes, from any thread.
#[derive(Debug)]
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
        let watched = terminal::is_watched();
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

    /// Counts a finished pass.
    pub(crate) fn passed(&self) {
        self.add(STEPS);
    }

    /// Moves the bar to unit use `unit` of about `units` in the running pass, counted from 1.
    pub(crate) fn at(&self, unit: u64, units: u64) {
        if let Some(bar) = self.bar() {
            let (position, message) = within(self.done.load(Ordering::Relaxed), self.total, unit, units);
            bar.set_message(message);
            bar.set_position(position);
        }
    }

    /// The bar, once enough time has passed to show one.
    fn bar(&self) -> Option<&ProgressBar> {
        let due = self.watched && self.start.elapsed() > PATIENCE;
        due.then(|| self.bar.get_or_init(|| bar(self.what, self.template, self.total, self.start)))
    }

    /// Removes the bar and returns the elapsed time.
    pub(crate) fn finish(&self) -> Duration {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
        self.start.elapsed()
    }
}

/// The position of the bar within a pass, and its message.
fn within(done: u64, total: u64, unit: u64, units: u64) -> (u64, String) {
    // A pass that departs from its plan may use more units than planned.
    let units = units.max(unit).max(1);
    let position = done + STEPS * unit.saturating_sub(1) / units;
    let (pass, passes) = (done / STEPS + 1, total / STEPS);
    (position, format!("pass {pass} of {passes}, unit {unit} of {units}"))
}

fn bar(what: &'static str, template: &str, total: u64, start: Instant) -> ProgressBar {
    // The bar's own clock begins when the bar is first shown, a second late.
    let tell = move |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Writing to a line in memory does not fail.
        let _ = out.write_str(&left(start.elapsed(), state.pos(), total));
    };
    let bar = ProgressBar::new(total).with_message(what);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.with_key("left", tell)),
        Err(_) => bar,
    }
}

/// The time that is left if the rest goes as what is done has gone.
fn left(elapsed: Duration, done: u64, total: u64) -> String {
    if done == 0 {
        return "-".to_owned();
    }
    let seconds = elapsed.as_secs_f64() / done as f64 * total.saturating_sub(done) as f64;
    match seconds.ceil() as u64 {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s.div_ceil(60)),
        s => format!("{} h", s.div_ceil(3600)),
    }
}

/// Says what is being done, for work whose length is not known.
#[derive(Debug)]
pub(crate) struct Working(Option<ProgressBar>);

impl Working {
    pub(crate) fn on(what: &'static str) -> Working {
        let bar = terminal::is_watched().then(|| {
            let bar = ProgressBar::new_spinner().with_message(what);
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Working(bar)
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_moves_within_a_pass() {
        let said = |position, text: &str| (position, text.to_owned());
        assert_eq!(within(0, 2 * STEPS, 1, 4), said(0, "pass 1 of 2, unit 1 of 4"));
        assert_eq!(within(STEPS, 2 * STEPS, 4, 4), said(STEPS + 750, "pass 2 of 2, unit 4 of 4"));
        assert_eq!(within(0, STEPS, 0, 0).0, 0);
        assert_eq!(within(0, STEPS, 9, 4), said(888, "pass 1 of 1, unit 9 of 9"));
    }

    /// The bar said "0s left" with seven seconds to go.
    #[test]
    fn what_is_left_is_reckoned_from_the_start() {
        let seconds = Duration::from_secs;
        assert_eq!(left(seconds(1), 0, 10), "-");
        assert_eq!(left(seconds(3), 3, 10), "7 s");
        assert_eq!(left(seconds(3), 10, 10), "0 s");
        assert_eq!(left(seconds(60), 1, 4), "3 min");
        assert_eq!(left(seconds(7200), 1, 4), "6 h");
        let start = Instant::now().checked_sub(seconds(30)).unwrap();
        let bar = bar("testing", "{left} left", 40, start);
        bar.set_position(30);
        assert_eq!(bar.length(), Some(40));
    }

    #[test]
    fn passes_add_up() {
        let mut progress = Progress::passes(2);
        progress.watched = true;
        progress.start -= 2 * PATIENCE;
        progress.at(3, 4);
        progress.passed();
        progress.at(1, 4);
        let bar = progress.bar.get().unwrap();
        assert_eq!((bar.position(), bar.length()), (STEPS, Some(2 * STEPS)));
        assert_eq!(bar.message(), "pass 2 of 2, unit 1 of 4");
        progress.finish();
    }
}
