//! The document that `vram plan --json` prints.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vram_stream::layers::Plan;
use vram_stream::layers::schedule::{Limit, Residency};
use vram_types::ByteSize;

use super::curve::Point;
use super::probe::Probe;
use super::{Args, Problem};
use crate::arch::{Arch, Opening};
use crate::args::Waits;

#[derive(Debug, Serialize)]
pub(super) struct Document {
    pub(super) arch: Option<Arch>,
    /// What the checkpoint is called: its file or folder.
    pub(super) model: String,
    /// The machine that the plan is for.
    pub(super) machine: String,
    pub(super) dtype: String,
    pub(super) tokens: usize,
    /// `shared` where device memory is host memory, else `discrete`.
    pub(super) memory: String,
    /// Where weights are kept that do not fit on the device.
    pub(super) from: Waits,
    /// Size of all weights.
    pub(super) weights_bytes: u64,
    /// The smallest budget that works.
    pub(super) smallest_budget_bytes: u64,
    pub(super) budget_bytes: u64,
    pub(super) host_budget_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) resident_bytes: u64,
    pub(super) ring_bytes: u64,
    pub(super) workspace_bytes: u64,
    pub(super) staging_bytes: u64,
    /// Size of the units that are kept in host memory.
    pub(super) host_bytes: u64,
    /// Peak use of host memory.
    pub(super) host_peak_bytes: u64,
    /// The first pass, which also loads the resident weights.
    pub(super) first_pass_seconds: f64,
    /// A pass in the steady state.
    pub(super) pass_seconds: f64,
    /// The bound that no schedule can beat.
    pub(super) bound_seconds: f64,
    /// What determines the bound.
    pub(super) limited_by: String,
    /// One entry per use of a unit, in order.
    pub(super) units: Vec<Use>,
    /// Tables, of which a pass reads single rows. They are on the device, or on disk and then not
    /// counted.
    pub(super) tables: Vec<Table>,
    pub(super) curve: Vec<Point>,
    /// What was measured, if this machine was probed.
    pub(super) probe: Option<Probe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) checked: Option<Checked>,
    #[serde(skip)]
    pub(super) plan: Plan,
}

/// A use of a unit.
#[derive(Debug, Serialize)]
pub(super) struct Use {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) compute_seconds: f64,
    /// The time over the slowest link on its way; for a resident unit, the time that it would
    /// take.
    pub(super) transfer_seconds: f64,
    pub(super) resident: bool,
    /// Where it is kept between uses: `device`, `host`, or `source` if only there.
    pub(super) kept: Residency,
    /// How long kernels wait for it in a simulated pass.
    pub(super) stall_seconds: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) resident: bool,
}

/// A plan from a file that was proved safe.
#[derive(Debug, Serialize)]
pub(super) struct Checked {
    file: PathBuf,
    safe: bool,
    units: usize,
    uses: usize,
    fetches: usize,
    smallest_budget_bytes: u64,
    budget_bytes: u64,
    peak_bytes: u64,
}

impl Checked {
    pub(super) fn new(file: &Path, plan: &Plan) -> Checked {
        Checked {
            file: file.to_owned(),
            safe: true,
            units: plan.units.len(),
            uses: plan.trace.len(),
            fetches: plan.fetches.len(),
            smallest_budget_bytes: plan.smallest_budget_bytes,
            budget_bytes: plan.budget_bytes,
            peak_bytes: plan.peak_bytes,
        }
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Checked { file, units, uses, fetches, budget_bytes, peak_bytes, .. } = self;
        writeln!(
            out,
            "{}: safe; {units} units, {uses} uses in a pass, {fetches} fetches, peak {} of {}",
            file.display(),
            ByteSize(*peak_bytes),
            ByteSize(*budget_bytes)
        )
    }
}

impl Document {
    pub(super) fn new(
        args: &Args,
        opening: &Opening<'_>,
        problem: &Problem<'_>,
        checked: Option<Checked>,
        plan: Plan,
        curve: Vec<Point>,
    ) -> Document {
        let uses = plan.trace.iter().filter_map(|&unit| plan.units.get(unit)).map(|unit| Use {
            name: unit.name.clone(),
            bytes: unit.bytes,
            compute_seconds: unit.compute_seconds,
            transfer_seconds: unit.transfer_seconds,
            resident: unit.kept == Residency::Device,
            kept: unit.kept,
            stall_seconds: unit.stall_seconds,
        });
        let unused = |(i, _): &(usize, _)| !plan.trace.contains(i);
        let tables = plan.units.iter().enumerate().filter(unused).map(|(_, unit)| Table {
            name: unit.name.clone(),
            bytes: unit.bytes,
            resident: unit.kept == Residency::Device,
        });
        Document {
            arch: args.arch,
            model: name(opening.path),
            machine: problem.machine.about.clone(),
            dtype: problem.subject.dtype().name().to_ascii_lowercase(),
            tokens: opening.tokens,
            memory: problem.machine.topology.memory.to_string(),
            from: problem.from,
            weights_bytes: problem.subject.weights_bytes(),
            smallest_budget_bytes: plan.smallest_budget_bytes,
            budget_bytes: plan.budget_bytes,
            host_budget_bytes: plan.host_budget_bytes,
            peak_bytes: plan.peak_bytes,
            resident_bytes: plan.resident_bytes,
            ring_bytes: plan.ring_bytes,
            workspace_bytes: plan.workspace_bytes,
            staging_bytes: plan.staging_bytes,
            host_bytes: plan.host_bytes,
            host_peak_bytes: plan.host_peak_bytes,
            first_pass_seconds: plan.first_pass_seconds,
            pass_seconds: plan.pass_seconds,
            bound_seconds: plan.bound_seconds,
            limited_by: limited_by(problem, plan.limited_by),
            units: uses.collect(),
            tables: tables.collect(),
            curve,
            probe: problem.probe.clone(),
            checked,
            plan,
        }
    }
}

/// The name of a checkpoint: that of its file or folder. `.` stands for the folder that it is.
fn name(path: &Path) -> String {
    let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let named = path.file_name().or(whole.file_name());
    named.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The name of the limiting link. The first link is the page cache if the user says that weights
/// are there.
fn limited_by(problem: &Problem<'_>, limit: Limit) -> String {
    match limit {
        Limit::Disk if problem.waits_in_page_cache() => "host".into(),
        limit => limit.to_string(),
    }
}
