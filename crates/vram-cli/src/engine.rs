//! What the commands that run a network have in common: the device, the budgets, the report.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use vram_stream::layers;
use vram_stream::layers::state::{Placement, State};
use vram_stream::{Budget as Ledger, Cpu, CpuOptions, Kernels, Report, Tier, VramConfig};
use vram_types::{ByteSize, DType};

use crate::args::{Budget, DeviceName, Engine, Read};
use crate::output;
use crate::progress::At;

impl Engine {
    /// The device that `--device` names.
    pub(crate) fn open_device(&self) -> Result<Arc<dyn Kernels>> {
        match self.device {
            DeviceName::Cpu => {
                let options = CpuOptions { threads: self.threads, ..CpuOptions::default() };
                Ok(Arc::new(Cpu::new(options)?))
            }
        }
    }

    /// Where weights are and how much they may take. `auto` is what the device has free now.
    pub(crate) fn config(&self, device: &dyn Kernels) -> Result<VramConfig> {
        let limit = match self.budget {
            Budget::Bytes(size) => size.bytes(),
            Budget::Auto => {
                device.memory().context("give the budget as a size, since auto needs to know")?.free
            }
        };
        // The dtype given here is replaced by the one asked for, or by the checkpoint's own.
        let mut config = VramConfig::disk(DType::F32, Ledger::new(Tier::Device, limit));
        config.computation = Placement { tier: Tier::Device, dtype: self.dtype.map(DType::from) };
        config.host_limit = Ledger::new(Tier::Host, self.host_budget.bytes());
        Ok(config)
    }
}

/// What the passes did and under which settings.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    #[serde(flatten)]
    report: Report,
    /// The smallest budget in bytes under which these passes run.
    minimum_budget_bytes: u64,
    host_budget_bytes: u64,
    host_peak_bytes: u64,
    read: Read,
}

impl RunReport {
    pub(crate) fn new(report: Report, minimum_budget_bytes: u64, host: &Ledger, read: Read) -> RunReport {
        let (host_budget_bytes, host_peak_bytes) = (host.limit(), host.peak());
        RunReport { report, minimum_budget_bytes, host_budget_bytes, host_peak_bytes, read }
    }

    /// Writes the report to the file that `--report` names.
    pub(crate) fn save(&self, path: Option<&Path>) -> Result<()> {
        let Some(path) = path else { return Ok(()) };
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    /// For people.
    pub(crate) fn print(&self, out: &mut impl std::io::Write) -> std::io::Result<()> {
        let Report { device, dtype, weights_bytes, workspace_bytes, .. } = &self.report;
        let size = |bytes| ByteSize(bytes).to_string();
        writeln!(out, "{device}, computing in {dtype}")?;
        let rows = [
            ("budget", self.report.budget_bytes, ""),
            ("smallest that works", self.minimum_budget_bytes, ""),
            ("most held at once", self.report.peak_bytes, ""),
            ("resident weights", self.report.resident_bytes, &*format!("of {}", size(*weights_bytes))),
            ("ring", self.report.ring_bytes, ""),
            ("activations, scratch", *workspace_bytes, ""),
        ]
        .map(|(name, bytes, note)| [format!("  {name}"), size(bytes), note.to_owned()]);
        output::columns(out, &rows, [false, true, false])?;
        let mut rows = vec![["  pass", "seconds", "waited", "from disk"].map(str::to_owned)];
        for (number, pass) in self.report.passes.iter().enumerate() {
            rows.push([
                format!("  {}", number + 1),
                format!("{:.3}", pass.seconds),
                format!("{:.3}", pass.stall_seconds),
                size(pass.disk_bytes),
            ]);
        }
        output::columns(out, &rows, [false, true, true, true])
    }
}

/// How far a running pass is, in the order in which units are registered, which is that of the layers of a model.
pub(crate) fn unit(engine: &layers::Engine) -> Option<At> {
    let states = engine.states();
    let computing = states.iter().rposition(|s| *s == State::Computation)?;
    Some((computing + 1, states.len()))
}

/// An error of the engine, with what to type instead where that is known.
pub(crate) fn explain(error: layers::Error) -> anyhow::Error {
    match error {
        layers::Error::BudgetTooSmall { needed, .. } => anyhow!("{error}; it runs with --budget {needed}"),
        _ => anyhow::Error::new(error),
    }
}
