//! Prints the plan as text.

use std::io::{self, Write};

use vram_stream::layers::schedule::Residency;
use vram_types::ByteSize;

use super::curve::{self, blocks, worth};
use super::document::{Document, Use};
use super::probe::Probe;
use crate::args::Waits;
use crate::output::{self, seconds};

/// Columns of the strip that shows the depth of the model.
const DEPTH: usize = 60;

/// Prints the tables, the strip and the curve.
pub(super) fn print(out: &mut impl Write, document: &Document) -> io::Result<()> {
    if let Some(checked) = &document.checked {
        checked.print(out)?;
    }
    let Document { model, machine, dtype, tokens, .. } = document;
    writeln!(out, "{model} on {machine}, computing in {dtype}, {tokens} tokens")?;
    if let Some(probe) = &document.probe {
        print_probe(out, probe, document.from)?;
    }
    writeln!(out)?;
    memory(out, document)?;
    writeln!(out)?;
    depth(out, document)?;
    writeln!(out)?;
    times(out, document)?;
    writeln!(out)?;
    draw(out, document)
}

fn print_probe(out: &mut impl Write, probe: &Probe, from: Waits) -> io::Result<()> {
    let how = match (from, probe.bus_bytes_per_second) {
        (Waits::Host, None) => "from the page cache",
        _ => "past the page cache where possible",
    };
    writeln!(
        out,
        "probed for {}: {} of the file read {how}, at {:.2} GB/s;",
        seconds(probe.seconds),
        ByteSize(probe.read_bytes),
        probe.read_bytes_per_second / 1e9
    )?;
    if let Some(bus) = probe.bus_bytes_per_second {
        writeln!(out, "  copies to the device at {:.2} GB/s;", bus / 1e9)?;
    }
    writeln!(
        out,
        "  {} layers of {} shapes, {} of weights, run {} times; {} of overhead per layer",
        probe.layers,
        probe.shapes,
        ByteSize(probe.weights_bytes),
        probe.passes,
        seconds(probe.unit_seconds)
    )
}

fn memory(out: &mut impl Write, d: &Document) -> io::Result<()> {
    // With the padding of the units on both sides.
    let all: u64 = d.plan.units.iter().map(|unit| unit.bytes).sum();
    let of_weights = |bytes: u64| format!("{:.0} % of the weights", 100.0 * bytes as f64 / all.max(1) as f64);
    let smallest = d.smallest_budget_bytes;
    let mut rows = vec![
        ("budget", d.budget_bytes, format!("smallest that works: {smallest} bytes ({})", ByteSize(smallest))),
        ("  resident weights", d.resident_bytes, of_weights(d.resident_bytes)),
        ("  streaming ring", d.ring_bytes, String::new()),
        ("  activations, scratch", d.workspace_bytes, String::new()),
        ("  peak", d.peak_bytes, String::new()),
    ];
    if d.host_peak_bytes > 0 {
        rows.push(("host budget", d.host_budget_bytes, String::new()));
        rows.push(("  weights in host memory", d.host_bytes, of_weights(d.host_bytes)));
        rows.push(("  staging", d.staging_bytes, String::new()));
    }
    let rows: Vec<[String; 3]> = rows
        .into_iter()
        .map(|(name, bytes, note)| [name.to_owned(), ByteSize(bytes).to_string(), note])
        .collect();
    output::columns(out, &rows, [false, true, false])
}

/// Prints how many uses find their unit resident, and the strip.
fn depth(out: &mut impl Write, d: &Document) -> io::Result<()> {
    let count = |kept: Residency| d.units.iter().filter(|u| u.kept == kept).count();
    let (device, host, source) = (count(Residency::Device), count(Residency::Host), count(Residency::Source));
    let disk = if d.memory == "shared" && d.from == Waits::Host { "the page cache" } else { "disk" };
    let mut parts =
        vec![format!("{} unit uses per pass: {device} find their weights on the device", d.units.len())];
    if host > 0 {
        parts.push(format!("{host} take them from host memory"));
    }
    if source > 0 {
        parts.push(format!("{source} take them from {disk}"));
    }
    writeln!(out, "{}", parts.join(", "))?;
    writeln!(out, "  first {} last   darker: more is resident", shares(&d.units, DEPTH))?;
    for table in &d.tables {
        let place =
            if table.resident { "is resident" } else { "is on disk; rows are read when they are needed" };
        writeln!(out, "  table {} ({}) {place}", table.name, ByteSize(table.bytes))?;
    }
    Ok(())
}

/// The resident share of each stretch of the depth, as block characters.
fn shares(units: &[Use], columns: usize) -> String {
    const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];
    let columns = columns.min(units.len());
    (0..columns)
        .map(|column| {
            let stretch = &units[column * units.len() / columns..(column + 1) * units.len() / columns];
            let all: u64 = stretch.iter().map(|u| u.bytes).sum();
            let stays: u64 = stretch.iter().filter(|u| u.resident).map(|u| u.bytes).sum();
            let shade = stays as f64 / all.max(1) as f64 * (SHADES.len() - 1) as f64;
            SHADES[(shade.ceil() as usize).min(SHADES.len() - 1)]
        })
        .collect()
}

fn times(out: &mut impl Write, d: &Document) -> io::Result<()> {
    // The mean of several passes may be rounded to below it.
    let over = 100.0 * (d.pass_seconds / d.bound_seconds.max(f64::MIN_POSITIVE) - 1.0).max(0.0);
    let rows = [
        ["pass", &seconds(d.pass_seconds), &format!("{over:.1} % above the bound")],
        ["first pass", &seconds(d.first_pass_seconds), "also loads the resident weights"],
        ["bound", &seconds(d.bound_seconds), set_by(&d.limited_by)],
    ];
    output::columns(out, &rows.map(|row| row.map(str::to_owned)), [false, true, false])?;
    let waited: f64 = d.units.iter().map(|u| u.stall_seconds).sum();
    if waited > 0.02 * d.pass_seconds {
        writeln!(out, "kernels wait {} of that for weights", seconds(waited))?;
    }
    Ok(())
}

fn set_by(limit: &str) -> &'static str {
    match limit {
        "compute" => "set by the kernels",
        "disk" => "set by the disk",
        "host" => "set by the copy out of the page cache",
        "bus" => "set by the bus to the device",
        _ => "set by copies and kernels, which share one queue",
    }
}

fn draw(out: &mut impl Write, d: &Document) -> io::Result<()> {
    writeln!(out, "time of a pass over the budget")?;
    let most = seconds(curve::top(&d.curve));
    let lines = blocks(&d.curve, d.budget_bytes);
    let margin = most.chars().count();
    for (row, line) in lines.iter().enumerate() {
        let label = if row == 0 { &most } else { "" };
        let axis = if row + 1 < lines.len() { '│' } else { ' ' };
        writeln!(out, "{}", format!("  {label:>margin$} {axis}{line}").trim_end())?;
    }
    if let (Some(first), Some(last)) = (d.curve.first(), d.curve.last()) {
        writeln!(
            out,
            "  from {} ({}) to {} ({}); {} is {}",
            ByteSize(first.budget_bytes),
            seconds(first.pass_seconds),
            ByteSize(last.budget_bytes),
            seconds(last.pass_seconds),
            if d.budget_bytes > last.budget_bytes { curve::BEYOND } else { curve::MARK },
            ByteSize(d.budget_bytes)
        )?;
    }
    match worth(&d.curve, d.budget_bytes, d.pass_seconds) {
        Some(p) => writeln!(
            out,
            "  {} more would give a pass of {}, {:.0} % less",
            ByteSize(p.budget_bytes - d.budget_bytes),
            seconds(p.pass_seconds),
            100.0 * (1.0 - p.pass_seconds / d.pass_seconds)
        ),
        None => writeln!(out, "  more memory would save less than 5 % of a pass"),
    }
}
