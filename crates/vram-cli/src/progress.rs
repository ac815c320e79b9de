//! A progress bar for what takes longer than a second, where a person watches.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PATIENCE: Duration = Duration::from_secs(1);

const BYTES: &str = "{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left";
const PASSES: &str = "{msg} {wide_bar} {pos} of {len}, {eta} left";

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
        Progress::counting("running passes", PASSES, total)
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
        if self.watched && self.start.elapsed() > PATIENCE {
            self.bar.get_or_init(|| bar(self.what, self.template, self.total)).set_position(done);
        }
    }

    /// Takes the bar away and says how long it took.
    pub(crate) fn finish(&self) -> Duration {
        if let Some(bar) = self.bar.get() {
            bar.finish_and_clear();
        }
        self.start.elapsed()
    }
}

fn bar(what: &'static str, template: &str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    let bar = ProgressBar::new(total).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
