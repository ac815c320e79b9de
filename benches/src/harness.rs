//! How rows are measured. Every round runs each subject once, and every other round in reverse
//! order, so that drift (clocks, other guests, disk throughput) affects all subjects alike.
//! Results are medians with the full spread.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::Options;
use crate::machine::Machine;

/// Something to measure.
pub(crate) struct Subject<'a> {
    name: String,
    /// Bytes that one run moves, for a rate; 0 if there is no rate.
    bytes: u64,
    run: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Subject<'a> {
    /// A subject that is timed from call to return.
    pub(crate) fn new(
        name: impl Into<String>,
        bytes: u64,
        mut run: impl FnMut() -> Result<()> + 'a,
    ) -> Subject<'a> {
        let timed = move || {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed())
        };
        Subject::timed(name, bytes, timed)
    }

    /// A subject that reports its own time.
    pub(crate) fn timed(
        name: impl Into<String>,
        bytes: u64,
        run: impl FnMut() -> Result<Duration> + 'a,
    ) -> Subject<'a> {
        Subject { name: name.into(), bytes, run: Box::new(run) }
    }

    /// A subject that runs `times` in a row; its time is divided by that number.
    pub(crate) fn each(
        name: impl Into<String>,
        bytes: u64,
        times: u32,
        run: impl FnMut() -> Result<()> + 'a,
    ) -> Subject<'a> {
        let Subject { name, bytes, run: mut all } = Subject::new(name, bytes, run);
        Subject { name, bytes, run: Box::new(move || Ok(all()? / times.max(1))) }
    }
}

/// The results of one subject.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    name: String,
    bytes: u64,
    seconds: Vec<f64>,
    median: f64,
    fastest: f64,
    slowest: f64,
    /// The ratio of this subject's time to the first one's, per round.
    ratio: f64,
    fastest_ratio: f64,
    slowest_ratio: f64,
}

/// A row: subjects that are measured together. The others are compared with the first one.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    row: String,
    title: String,
    machine: Machine,
    rounds: usize,
    quick: bool,
    subjects: Vec<Measured>,
    /// What was skipped, and why.
    skipped: Vec<String>,
    /// The share of the wanted processor time that the host gave to other guests; `None` if it is
    /// not reported.
    stolen: Option<f64>,
}

/// Measures all subjects: one warm-up, then `rounds` times.
pub(crate) fn measure(
    options: &Options,
    row: &str,
    title: &str,
    mut subjects: Vec<Subject<'_>>,
    skipped: Vec<String>,
) -> Result<Row> {
    ensure!(!subjects.is_empty(), "nothing to measure in {row}: {}", skipped.join("; "));
    let rounds = options.rounds();
    let mut seconds: Vec<Vec<f64>> = vec![Vec::with_capacity(rounds); subjects.len()];
    let before = ProcessorTime::now();
    for round in 0..=rounds {
        eprint!("\r{row}: round {round} of {rounds} ");
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for i in order {
            let subject = &mut subjects[i];
            let took = (subject.run)().with_context(|| format!("{row}: {}", subject.name))?;
            if round > 0 {
                seconds[i].push(took.as_secs_f64());
            }
        }
    }
    eprintln!();
    let stolen = before.zip(ProcessorTime::now()).map(|(before, after)| after.stolen_since(before));
    let first = seconds[0].clone();
    let subjects = subjects
        .into_iter()
        .zip(seconds)
        .map(|(subject, seconds)| {
            let ratios: Vec<f64> = seconds.iter().zip(&first).map(|(s, f)| s / f).collect();
            let (fastest, median, slowest) = spread(&seconds);
            let (fastest_ratio, ratio, slowest_ratio) = spread(&ratios);
            let (name, bytes) = (subject.name, subject.bytes);
            Measured { name, bytes, seconds, median, fastest, slowest, ratio, fastest_ratio, slowest_ratio }
        })
        .collect();
    let (row, title, machine) = (row.to_owned(), title.to_owned(), Machine::here());
    Ok(Row { row, title, machine, rounds, quick: options.quick, subjects, skipped, stolen })
}

/// Processor time since boot, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ProcessorTime {
    busy: u64,
    /// Ready to run while the host ran something else.
    stolen: u64,
}

impl ProcessorTime {
    fn now() -> Option<ProcessorTime> {
        ProcessorTime::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<ProcessorTime> {
        let ticks = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = ticks.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let &[user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = ticks.as_slice() else {
            return None;
        };
        Some(ProcessorTime { busy: user + nice + system + irq + softirq, stolen })
    }

    fn stolen_since(self, before: ProcessorTime) -> f64 {
        let (busy, stolen) =
            (self.busy.saturating_sub(before.busy), self.stolen.saturating_sub(before.stolen));
        stolen as f64 / (busy + stolen).max(1) as f64
    }
}

/// Minimum, median and maximum; NaN if there are no values.
fn spread(samples: &[f64]) -> (f64, f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 {
        return (f64::NAN, f64::NAN, f64::NAN);
    }
    (sorted[0], (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0, sorted[n - 1])
}

impl Row {
    /// Prints the table and writes the samples.
    pub(crate) fn publish(&self, options: &Options) -> Result<()> {
        println!("{}", self.table());
        fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
        let path = options.out.join(format!("{}.json", self.row));
        let text = serde_json::to_string_pretty(self).context("row as JSON")?;
        fs::write(&path, text + "\n").with_context(|| path.display().to_string())
    }

    /// Describes how much longer one subject takes than another, per one of `count` things.
    pub(crate) fn excess(&self, subject: usize, base: usize, count: f64, of: &str) -> String {
        let seconds = |i: usize| self.subjects[i].seconds.iter();
        let each: Vec<f64> =
            seconds(subject).zip(seconds(base)).map(|(s, b)| (s - b) / count * 1e6).collect();
        let (least, median, most) = spread(&each);
        let (name, base) = (&self.subjects[subject].name, &self.subjects[base].name);
        format!("{name}, beyond {base}: {median:.2} microseconds per {of} ({least:.2} .. {most:.2})")
    }

    /// Describes the ratio of one subject's time to another's, per round.
    pub(crate) fn against(&self, subject: usize, base: usize) -> String {
        let seconds = |i: usize| self.subjects[i].seconds.iter();
        let ratios: Vec<f64> = seconds(subject).zip(seconds(base)).map(|(s, b)| s / b).collect();
        let (least, median, most) = spread(&ratios);
        format!("{median:.2} ({least:.2} .. {most:.2})")
    }

    /// Describes one subject against the larger of several bounds, per round. If a bound was
    /// measured in several ways, the one with the fastest median counts, scaled by the share that
    /// applies.
    pub(crate) fn against_the_larger(&self, subject: usize, bounds: &[(&[usize], f64)]) -> String {
        let fastest = |ways: &[usize]| {
            ways.iter().copied().min_by(|&a, &b| self.subjects[a].median.total_cmp(&self.subjects[b].median))
        };
        let at = |i: usize, round: usize| self.subjects[i].seconds[round];
        let due = |round: usize| {
            let each = bounds.iter().filter_map(|(ways, share)| Some(share * at(fastest(ways)?, round)));
            each.fold(0.0, f64::max)
        };
        let ratios: Vec<f64> = (0..self.rounds).map(|round| at(subject, round) / due(round)).collect();
        let (least, median, most) = spread(&ratios);
        let name = &self.subjects[subject].name;
        format!("{name}, over the larger of the bounds: {median:.2} ({least:.2} .. {most:.2})")
    }

    /// Describes the speed of one subject relative to the fastest of several others by median, per
    /// round.
    pub(crate) fn speed(&self, subject: usize, ceilings: &[usize]) -> String {
        let at = |i: usize, round: usize| self.subjects[i].seconds[round];
        let fastest = ceilings
            .iter()
            .copied()
            .min_by(|&a, &b| self.subjects[a].median.total_cmp(&self.subjects[b].median));
        let base = fastest.unwrap_or(subject);
        let shares: Vec<f64> = (0..self.rounds).map(|round| at(base, round) / at(subject, round)).collect();
        let (least, median, most) = spread(&shares);
        let name = &self.subjects[subject].name;
        let others: Vec<&str> = ceilings.iter().map(|&i| self.subjects[i].name.as_str()).collect();
        format!("{name}: {median:.2} ({least:.2} .. {most:.2}) of the speed of {}", others.join(" | "))
    }

    fn table(&self) -> String {
        let mut rows = vec![["", "median", "spread", "rate", "against the first"].map(str::to_owned)];
        for m in &self.subjects {
            let rate = m.bytes as f64 / m.median / 1e9;
            rows.push([
                m.name.clone(),
                seconds_text(m.median),
                format!("{} .. {}", seconds_text(m.fastest), seconds_text(m.slowest)),
                if m.bytes > 0 { format!("{rate:.2} GB/s") } else { String::new() },
                format!("{:.2} ({:.2} .. {:.2})", m.ratio, m.fastest_ratio, m.slowest_ratio),
            ]);
        }
        let mut text = format!("\n{}\n{} rounds, interleaved\n\n", self.title, self.rounds);
        text.push_str(&table(&rows));
        for reason in &self.skipped {
            let _ = writeln!(text, "skipped: {reason}");
        }
        if let Some(stolen) = self.stolen.filter(|stolen| *stolen >= 0.01) {
            let percent = stolen * 100.0;
            let _ = writeln!(
                text,
                "{percent:.0} % of the wanted processor time went to other guests of the host"
            );
        }
        text
    }
}

/// A Markdown table that also lines up in a terminal. The first row is the header; all columns but
/// the first are numbers.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        for (c, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if c == 0 { write!(text, "| {cell:width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if i == 0 {
            for (c, width) in widths.into_iter().enumerate() {
                let _ = write!(text, "|{}{}", "-".repeat(width + 1), if c == 0 { "-" } else { ":" });
            }
            text.push_str("|\n");
        }
    }
    text
}

fn seconds_text(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", s * 1e6),
        s if s < 1.0 => format!("{:.1} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_few_and_of_even_counts() {
        assert!(spread(&[]).1.is_nan());
        assert_eq!(spread(&[2.0]), (2.0, 2.0, 2.0));
        assert_eq!(spread(&[4.0, 1.0, 3.0]), (1.0, 3.0, 4.0));
        assert_eq!(spread(&[4.0, 1.0, 3.0, 2.0]), (1.0, 2.5, 4.0));
    }

    #[test]
    fn every_subject_runs_once_a_round_in_alternating_order() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { quick: true, rounds: None, out: dir.path().to_owned() };
        let log = &std::cell::RefCell::new(String::new());
        let subject = |name: &'static str| Subject {
            name: name.to_owned(),
            bytes: 0,
            run: Box::new(move || {
                log.borrow_mut().push_str(name);
                Ok(Duration::from_millis(if name == "a" { 10 } else { 25 }))
            }),
        };
        let row = measure(&options, "test", "A test", vec![subject("a"), subject("b")], vec![]).unwrap();
        assert_eq!(*log.borrow(), "abbaabba");
        assert_eq!(row.subjects[1].ratio, 2.5);
        row.publish(&options).unwrap();
        let json: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("test.json")).unwrap()).unwrap();
        assert_eq!(json["subjects"][1]["seconds"].as_array().map(Vec::len), Some(3));
    }

    #[test]
    fn stolen_time_is_a_share_of_what_was_wanted() {
        let before = ProcessorTime::parse("cpu  10 0 5 100 7 1 2 3 0 0\ncpu0 1").unwrap();
        assert_eq!(before, ProcessorTime { busy: 18, stolen: 3 });
        let after = ProcessorTime { busy: 18 + 60, stolen: 3 + 20 };
        assert_eq!(after.stolen_since(before), 0.25);
        assert_eq!(before.stolen_since(before), 0.0);
        assert_eq!(ProcessorTime::parse("cpu  1 2 3"), None);
    }

    #[test]
    fn tables_line_up() {
        let rows = [["", "t"], ["long name", "1"]].map(|r| r.map(str::to_owned));
        assert_eq!(table(&rows), "|           | t |\n|-----------|--:|\n| long name | 1 |\n");
    }
}
