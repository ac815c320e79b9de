//! The observer of a run: drives the progress bar, and records the trace for `--trace`.

use std::sync::{Arc, OnceLock};

use anyhow::Result;
use vram_stream::layers::{Event, Observer, Trace};

use crate::outputs::Target;
use crate::progress::Progress;

/// Updates the progress bar, and records a trace if `--trace` names a file.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    trace: Option<Trace>,
    progress: OnceLock<Progress>,
}

impl Watch {
    /// For a number of passes that is not known yet; records a trace if one is to be saved.
    pub(crate) fn new(traces: bool) -> Arc<Watch> {
        Arc::new(Watch { trace: traces.then(Trace::new), progress: OnceLock::new() })
    }

    /// Starts the bar for this number of passes.
    pub(crate) fn begin(&self, passes: usize) {
        self.progress.get_or_init(|| Progress::passes(passes as u64));
    }

    /// Removes the bar, after the last pass.
    pub(crate) fn finish(&self) {
        if let Some(progress) = self.progress.get() {
            progress.finish();
        }
    }

    /// Writes the trace to the file that `--trace` names.
    pub(crate) fn save(&self, to: Option<&Target>) -> Result<()> {
        let (Some(to), Some(trace)) = (to, &self.trace) else { return Ok(()) };
        to.write((serde_json::to_string(trace)? + "\n").as_bytes())
    }
}

impl Observer for Watch {
    fn event(&self, event: &Event<'_>) {
        if let Some(trace) = &self.trace {
            trace.event(event);
        }
        let Some(progress) = self.progress.get() else { return };
        match *event {
            Event::Progress { done, total } => progress.at(done, total),
            Event::Passed { .. } => progress.passed(),
            _ => {}
        }
    }
}
