//! A progress bar for what takes longer than a second, where a person watches.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PATIENCE: Duration = Duration::from_secs(1);

const BYTES: &str = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left";
const PASSES: &str = "{msg} {wide_bar} {eta} left";

/// Steps of a pass on its bar.
const STEPS: u64 = 1000;
/// Counts bytes or passes from any thread.
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

    /// A pass ended.
    pub(crate) fn passed(&self) {
        self.add(STEPS);
    }

    /// The pass that is running is at the `unit`-th use of about `units`, counted from 1.
    pub(crate) fn at(&self, unit: u64, units: u64) {
        if let Some(bar) = self.bar() {
            let (position, message) = within(self.done.load(Ordering::Relaxed), self.total, unit, units);
            bar.set_message(message);
            bar.set_position(position);
        }
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
fn within(done: u64, total: u64, unit: u64, units: u64) -> (u64, String) {
    // A pass that departs from its plan may use more than was reckoned with.
    let units = units.max(unit).max(1);
    let position = done + STEPS * unit.saturating_sub(1) / units;
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
        assert_eq!(within(0, 2 * STEPS, 1, 4), said(0, "pass 1 of 2, unit 1 of 4"));
        assert_eq!(within(STEPS, 2 * STEPS, 4, 4), said(STEPS + 750, "pass 2 of 2, unit 4 of 4"));
        assert_eq!(within(0, STEPS, 0, 0).0, 0);
        assert_eq!(within(0, STEPS, 9, 4), said(888, "pass 1 of 1, unit 9 of 9"));
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
