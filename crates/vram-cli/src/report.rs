//! What passes did, for people and as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use vram_stream::layers::{DecodedOnHost, EvictionReason, PassReport, StallCause};
use vram_stream::{Budget as Ledger, Report};
use vram_types::ByteSize;

use crate::args::{Engine, Read, Waits};
use crate::output::{self, seconds};
use crate::outputs::Target;

/// Units that are named of those that were waited for.
const NAMED: usize = 3;

/// What the passes did and under which settings.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    #[serde(flatten)]
    report: Report,
    /// The smallest budget in bytes under which these passes run.
    smallest_budget_bytes: u64,
    host_budget_bytes: u64,
    host_peak_bytes: u64,
    /// Where weights wait that do not stay on the device.
    from: Waits,
    read: Read,
}

impl RunReport {
    pub(crate) fn new(
        report: Report,
        smallest_budget_bytes: u64,
        host: &Ledger,
        asked: &Engine,
    ) -> RunReport {
        let (host_budget_bytes, host_peak_bytes) = (host.limit(), host.peak());
        let (from, read) = (asked.from, asked.read);
        RunReport { report, smallest_budget_bytes, host_budget_bytes, host_peak_bytes, from, read }
    }

    /// Writes the report to the file that `--report` names.
    pub(crate) fn save(&self, to: Option<&Target>) -> Result<()> {
        let Some(to) = to else { return Ok(()) };
        to.write((serde_json::to_string_pretty(self)? + "\n").as_bytes())
    }

    /// For people.
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Report { device, dtype, .. } = &self.report;
        writeln!(out, "{device}, computing in {dtype}")?;
        self.print_memory(out)?;
        for DecodedOnHost { encoding, tensors, bytes, why, .. } in &self.report.decoded_on_host {
            let size = ByteSize(*bytes);
            writeln!(out, "  decoded on the host: {tensors} tensors of {encoding}, to {size}: {why}")?;
        }
        self.print_passes(out)?;
        let stalls = stalls(&self.report.passes);
        if !stalls.is_empty() {
            writeln!(out, "  waited for weights: {}", stalls.join(", "))?;
            writeln!(out, "  longest for: {}", longest(&self.report.passes).join(", "))?;
        }
        for line in evictions(&self.report.passes) {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }

    /// The memory's part of it.
    pub(crate) fn print_memory(&self, out: &mut impl Write) -> io::Result<()> {
        let report = &self.report;
        let size = |bytes| ByteSize(bytes).to_string();
        let of_all = format!("with padding; all weights are {} without", size(report.weights_bytes));
        let mut rows = vec![
            ("budget", report.budget_bytes, ""),
            ("smallest that works", self.smallest_budget_bytes, ""),
            ("most held at once", report.peak_bytes, ""),
            ("resident weights", report.resident_bytes, &*of_all),
            ("ring", report.ring_bytes, ""),
            ("activations, scratch", report.workspace_bytes, ""),
        ];
        if self.from == Waits::Host {
            rows.push(("host budget", self.host_budget_bytes, ""));
            rows.push((
                "most held on the host",
                self.host_peak_bytes,
                "weights that wait there, and staging",
            ));
        }
        let rows: Vec<[String; 3]> = rows
            .into_iter()
            .map(|(name, bytes, note)| [format!("  {name}"), size(bytes), note.to_owned()])
            .collect();
        output::columns(out, &rows, [false, true, false])
    }

    /// Measured beside what the plan said: the first pass loads what stays, which a prediction does
    /// not count.
    fn print_passes(&self, out: &mut impl Write) -> io::Result<()> {
        let head = ["  pass", "seconds", "predicted", "bound", "waited", "from disk"];
        let mut rows = vec![head.map(str::to_owned)];
        // The last passes alone are listed.
        let first = self.report.total.passes.saturating_sub(self.report.passes.len() as u64);
        for (number, pass) in (first + 1..).zip(&self.report.passes) {
            // Before a pass was measured, costs are assumed, and say nothing of this machine.
            let known = |seconds: f64| if number > 1 { format!("{seconds:.3}") } else { "-".to_owned() };
            rows.push([
                format!("  {number}"),
                format!("{:.3}", pass.seconds),
                known(pass.predicted_seconds),
                known(pass.bound_seconds),
                format!("{:.3}", pass.stall_seconds),
                ByteSize(pass.disk_bytes).to_string(),
            ]);
        }
        output::columns(out, &rows, [false, true, true, true, true, true])
    }
}

/// All waits, summed by cause, the longest first.
fn stalls(passes: &[PassReport]) -> Vec<String> {
    let mut sums: BTreeMap<StallCause, (f64, usize)> = BTreeMap::new();
    for stall in passes.iter().flat_map(|p| &p.stalls) {
        let (sum, count) = sums.entry(stall.cause).or_default();
        *sum += stall.seconds;
        *count += 1;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0));
    sums.into_iter().map(|(cause, (sum, count))| format!("{cause} {} in {count}", seconds(sum))).collect()
}

/// The units that were waited for longest, over all passes.
fn longest(passes: &[PassReport]) -> Vec<String> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for stall in passes.iter().flat_map(|p| &p.stalls) {
        *sums.entry(&stall.unit).or_default() += stall.seconds;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    sums.into_iter().take(NAMED).map(|(unit, sum)| format!("{unit} {}", seconds(sum))).collect()
}

/// What had to leave the device, by reason.
fn evictions(passes: &[PassReport]) -> Vec<String> {
    let mut sums: BTreeMap<EvictionReason, (u64, usize)> = BTreeMap::new();
    for eviction in passes.iter().flat_map(|p| &p.evictions) {
        let (bytes, count) = sums.entry(eviction.reason).or_default();
        *bytes += eviction.bytes;
        *count += 1;
    }
    let line = |(reason, (bytes, count)): (_, (u64, usize))| {
        format!("evicted for {reason}: {}, {}", output::count(count, "unit"), ByteSize(bytes))
    };
    sums.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vram_stream::layers::{Eviction, Stall};

    fn pass(stalls: &[(&str, StallCause, f64)], evictions: &[(u64, EvictionReason)]) -> PassReport {
        let stall = |(unit, cause, seconds): &(&str, _, _)| Stall {
            unit: (*unit).to_owned(),
            cause: *cause,
            seconds: *seconds,
        };
        let eviction =
            |(bytes, reason): &(u64, _)| Eviction { unit: "a".to_owned(), bytes: *bytes, reason: *reason };
        PassReport {
            stalls: stalls.iter().map(stall).collect(),
            evictions: evictions.iter().map(eviction).collect(),
            ..PassReport::default()
        }
    }

    #[test]
    fn waits_are_summed_by_cause_and_by_unit() {
        let passes = [
            pass(&[("a", StallCause::Disk, 0.5), ("b", StallCause::FirstLoad, 0.25)], &[]),
            pass(
                &[("b", StallCause::Disk, 1.0), ("c", StallCause::Disk, 0.125), ("d", StallCause::Bus, 0.1)],
                &[],
            ),
        ];
        assert_eq!(stalls(&passes), ["disk 1.62 s in 3", "first load 250 ms in 1", "bus 100 ms in 1"]);
        assert_eq!(longest(&passes), ["b 1.25 s", "a 500 ms", "c 125 ms"]);
        assert!(stalls(&[pass(&[], &[])]).is_empty());
    }

    #[test]
    fn evictions_are_summed_by_reason() {
        let passes = [
            pass(&[], &[(1024, EvictionReason::Budget), (1024, EvictionReason::Budget)]),
            pass(&[], &[(512, EvictionReason::Costs)]),
        ];
        assert_eq!(
            evictions(&passes),
            ["evicted for less budget: 2 units, 2.0 KiB", "evicted for measured costs: 1 unit, 512 B"]
        );
    }
}
