//! Prints the listing for people.

use std::io::{self, Write};

use vram_types::ByteSize;

use super::document::{Document, Group, Reading, Tensor, Total, Unreadable};
use crate::output::{self, large};

pub(super) fn print(document: &Document<'_>) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    if let Some(tensors) = &document.tensors {
        list(&mut out, tensors)?;
    }
    if let Some(groups) = &document.groups {
        list_groups(&mut out, groups)?;
    }
    for reading in &document.reading {
        writeln!(out, "{}", said(reading, document.reading.len() > 1))?;
    }
    for Unreadable { name, why } in &document.unreadable {
        writeln!(out, "cannot be read: {name}: {why}")?;
    }
    for Unreadable { name, why } in &document.unread {
        writeln!(out, "left unread: {name}: {why}")?;
    }
    for what in &document.leniencies {
        writeln!(out, "accepted: {what}")?;
    }
    for (key, value) in document.metadata.iter().flat_map(|m| &m.pairs) {
        writeln!(out, "{key} = {}", shortened(value))?;
    }
    for Total { dtype, tensors, parameters, bytes } in &document.totals {
        let count = output::count(*tensors, "tensor");
        writeln!(out, "{count} of {dtype}, {} parameters, {}", large(*parameters), ByteSize(*bytes))?;
    }
    let (count, bytes) = (output::count(document.count, "tensor"), ByteSize(document.bytes));
    let (parameters, read) = (large(document.parameters), ByteSize(document.bytes_read));
    writeln!(out, "{count} in all, {parameters} parameters, {bytes}; read {read} of headers")?;
    out.flush()
}

/// A table for each file.
fn list(out: &mut impl Write, tensors: &[Tensor<'_>]) -> io::Result<()> {
    for tensors in tensors.chunk_by(|a, b| a.file == b.file) {
        if let Some(first) = tensors.first() {
            writeln!(out, "{}", first.file)?;
        }
        let made_from = if tensors.iter().all(|t| t.made_of.is_empty()) { "" } else { "made from" };
        let mut rows = vec![["  tensor", "dtype", "shape", "size", "offset", made_from].map(str::to_owned)];
        rows.extend(tensors.iter().map(|tensor| {
            [
                format!("  {}", tensor.name),
                tensor.dtype.to_owned(),
                format!("{:?}", tensor.shape),
                ByteSize(tensor.bytes).to_string(),
                tensor.offset.map_or("-".to_owned(), |offset| offset.to_string()),
                made_of(&tensor.made_of),
            ]
        }));
        output::columns(out, &rows, [false, false, false, true, true, false])?;
    }
    Ok(())
}

fn list_groups(out: &mut impl Write, groups: &[Group]) -> io::Result<()> {
    let mut rows =
        vec![["tensors", "count", "dtype", "shape of each", "parameters", "size of all"].map(str::to_owned)];
    rows.extend(groups.iter().map(|group| {
        [
            group.name.clone(),
            group.tensors.to_string(),
            group.dtype.to_owned(),
            format!("{:?}", group.shape),
            large(group.parameters),
            ByteSize(group.bytes).to_string(),
        ]
    }));
    output::columns(out, &rows, [false, true, false, false, true, true])
}

/// Describes how a file would be read.
fn said(reading: &Reading<'_>, with_path: bool) -> String {
    let mut text = if with_path { format!("{}: ", reading.file) } else { String::new() };
    text += &format!("on {}, ", reading.file_system.unwrap_or("an unknown file system"));
    match (reading.cached_bytes, reading.bytes) {
        (Some(cached), Some(all)) => text += &format!("{} % in the page cache, ", cached * 100 / all.max(1)),
        _ => text += "the system does not report what is cached, ",
    }
    text + &format!("the rest is read {}", reading.way())
}

/// The tensors that a tensor is made from; the first few by name.
fn made_of(names: &[&str]) -> String {
    const MOST: usize = 3;
    let shown = names.iter().take(MOST).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A value on one line, truncated if it is long.
fn shortened(value: &str) -> String {
    const MOST: usize = 200;
    match value.char_indices().nth(MOST) {
        None => format!("{value:?}"),
        Some((cut, _)) => format!("{:?}... ({} bytes)", &value[..cut], value.len()),
    }
}
