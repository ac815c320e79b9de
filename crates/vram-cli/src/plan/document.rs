//! What `vram plan --json` prints.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vram_stream::layers::Plan;
use vram_stream::layers::schedule::{Kept, Limit};
use vram_types::ByteSize;

use super::curve::Point;
use super::probe::Probe;
use super::{Args, Problem};
use crate::arch::Arch;
use crate::args::Waits;

#[derive(Debug, Serialize)]
pub(super) struct Document {
    pub(super) arch: Option<Arch>,
    /// What was reckoned with.
    pub(super) machine: String,
    pub(super) dtype: String,
    pub(super) tokens: usize,
    /// Whether the device's memory is the host's.
    pub(super) host_visible: bool,
    /// Where weights wait that do not stay.
    pub(super) from: Waits,
    /// Bytes of all weights.
    pub(super) weights_bytes: u64,
    /// The smallest budget that works.
    pub(super) minimum_budget_bytes: u64,
    pub(super) budget_bytes: u64,
    pub(super) host_budget_bytes: u64,
    pub(super) peak_bytes: u64,
    pub(super) resident_bytes: u64,
    pub(super) ring_bytes: u64,
    pub(super) workspace_bytes: u64,
    pub(super) staging_bytes: u64,
    /// Bytes of the units that wait in host memory.
    pub(super) host_bytes: u64,
    /// The most that is ever held on the host.
    pub(super) host_peak_bytes: u64,
    /// The first pass, which loads what stays.
    pub(super) first_pass_seconds: f64,
    /// A pass in the long run.
    pub(super) pass_seconds: f64,
    /// What no schedule is faster than.
    pub(super) bound_seconds: f64,
    /// What sets the bound.
    pub(super) limited_by: String,
    /// One entry for each use, in order of use.
    pub(super) units: Vec<Use>,
    /// Tables, of which a pass reads rows: on the device, or on disk and then not counted anywhere.
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
    /// Over the slowest link that it crosses; of one that stays, that it would cross.
    pub(super) transfer_seconds: f64,
    pub(super) resident: bool,
    /// Where it is between uses: `device`, `host`, or `nowhere` but on disk.
    pub(super) kept: Kept,
    /// How long kernels wait for it in a pass, as simulated.
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
            budget_bytes: plan.budget_bytes,
            peak_bytes: plan.peak_bytes,
        }
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Checked { file, units, uses, fetches, budget_bytes, peak_bytes, .. } = self;
        writeln!(
            out,
            "{}: safe; {units} units, {uses} uses in a pass, {fetches} fetches, {} of {} held at the most",
            file.display(),
            ByteSize(*peak_bytes),
            ByteSize(*budget_bytes)
        )
    }
}

impl Document {
    pub(super) fn new(
        args: &Args,
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
            resident: unit.kept == Kept::Device,
            kept: unit.kept,
            stall_seconds: unit.stall_seconds,
        });
        let unused = |(i, _): &(usize, _)| !plan.trace.contains(i);
        let tables = plan.units.iter().enumerate().filter(unused).map(|(_, unit)| Table {
            name: unit.name.clone(),
            bytes: unit.bytes,
            resident: unit.kept == Kept::Device,
        });
        Document {
            arch: args.arch,
            machine: problem.machine.about.clone(),
            dtype: problem.subject.dtype().name().to_ascii_lowercase(),
            tokens: args.tokens,
            host_visible: problem.machine.topology.host_visible,
            from: problem.from,
            weights_bytes: problem.subject.weights_bytes(),
            minimum_budget_bytes: plan.smallest_budget_bytes,
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

/// The first link is the page cache where weights are said to wait there.
fn limited_by(problem: &Problem<'_>, limit: Limit) -> String {
    match limit {
        Limit::Disk if problem.from == Waits::Host && problem.machine.topology.host_visible => "host".into(),
        limit => limit.to_string(),
    }
}
