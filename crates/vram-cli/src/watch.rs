//! Who listens to passes: the progress bar, and the trace that `--trace` asks for.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use vram_stream::layers::{Event, Observer, Trace};

use crate::progress::Progress;

/// Tells the bar how far a pass is, and keeps a trace if there is a file for it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    trace: Option<Trace>,
    progress: OnceLock<Progress>,
}

impl Watch {
    /// Of passes whose number is not known yet.
    pub(crate) fn new(trace: Option<&Path>) -> Arc<Watch> {
        Arc::new(Watch { trace: trace.map(|_| Trace::new()), progress: OnceLock::new() })
    }

    /// So many passes begin.
    pub(crate) fn begin(&self, passes: usize) {
        self.progress.get_or_init(|| Progress::passes(passes as u64));
    }

    /// All passes are over: takes the bar away and writes the trace.
    pub(crate) fn finish(&self, trace: Option<&Path>) -> Result<()> {
        if let Some(progress) = self.progress.get() {
            progress.finish();
        }
        let (Some(path), Some(trace)) = (trace, &self.trace) else { return Ok(()) };
        let text = serde_json::to_string(trace)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
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
