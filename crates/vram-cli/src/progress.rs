//! A progress bar for what takes longer than a second, where a person watches.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const PATIENCE: Duration = Duration::from_secs(1);

/// Counts bytes from any thread.
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    done: AtomicU64,
    start: Instant,
    watched: bool,
    bar: OnceLock<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: u64) -> Progress {
        let watched = std::io::stderr().is_terminal();
        Progress {
            what,
            total,
            done: AtomicU64::new(0),
            start: Instant::now(),
            watched,
            bar: OnceLock::new(),
        }
    }

    pub(crate) fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.watched && self.start.elapsed() > PATIENCE {
            self.bar.get_or_init(|| bar(self.what, self.total)).set_position(done);
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

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {binary_bytes} of {binary_total_bytes}, {eta} left");
    let bar = ProgressBar::new(total).with_message(what);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
