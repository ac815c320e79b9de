//! `vram devices`: what is here, and why a backend is not available.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use vram_stream::{Cpu, Device};
use vram_types::ByteSize;

use crate::output;

/// What is here to compute on, its memory and limits, and why a backend is not available
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

/// Backends that this binary was built without.
const NOT_BUILT: [&str; 2] = ["cuda", "wgpu"];

#[derive(Debug, Serialize)]
struct Document {
    devices: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    /// As `--device` takes it.
    name: &'static str,
    available: bool,
    #[serde(flatten)]
    state: State,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum State {
    Here(Found),
    Missing { reason: String },
}

#[derive(Debug, Serialize)]
struct Found {
    description: String,
    threads: usize,
    isa: String,
    memory_free_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    host_visible: bool,
    separate_copy_queue: bool,
}

pub(crate) fn run(_args: &Args, json: bool) -> Result<()> {
    let mut devices = vec![cpu()];
    devices.extend(NOT_BUILT.map(|name| missing(name, "not built into this binary".to_owned())));
    let document = Document { devices };
    if json { output::json(&document) } else { Ok(print(&document)?) }
}

fn cpu() -> Entry {
    let cpu = match Cpu::new(Default::default()) {
        Ok(cpu) => cpu,
        Err(error) => return missing("cpu", error.to_string()),
    };
    let (info, memory) = (cpu.info(), cpu.memory().ok());
    let found = Found {
        description: info.name.clone(),
        threads: cpu.threads(),
        isa: cpu.isa().to_string(),
        memory_free_bytes: memory.map(|m| m.free),
        memory_total_bytes: memory.map(|m| m.total),
        host_visible: info.topology.host_visible,
        separate_copy_queue: info.topology.separate_copy_queue,
    };
    Entry { name: "cpu", available: true, state: State::Here(found) }
}

fn missing(name: &'static str, reason: String) -> Entry {
    Entry { name, available: false, state: State::Missing { reason } }
}

fn print(document: &Document) -> io::Result<()> {
    let rows: Vec<[String; 3]> = document
        .devices
        .iter()
        .map(|entry| match &entry.state {
            State::Missing { reason } => [entry.name.to_owned(), "-".to_owned(), reason.clone()],
            State::Here(found) => {
                let memory = match (found.memory_free_bytes, found.memory_total_bytes) {
                    (Some(free), Some(total)) => format!("{} free of {}", ByteSize(free), ByteSize(total)),
                    _ => "memory unknown".to_owned(),
                };
                [entry.name.to_owned(), memory, found.description.clone()]
            }
        })
        .collect();
    let mut out = io::stdout().lock();
    output::columns(&mut out, &rows, [false; 3])?;
    out.flush()
}
