//! `vram devices`: the available devices, and why other backends are not available.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use vram_stream::Kernels;
use vram_stream::device::{Backend, DeviceError, backends};
use vram_types::ByteSize;

use crate::output;

/// List the devices that can compute here, with memory and limits, and why other backends cannot
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Debug, Serialize)]
struct Document {
    devices: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    /// The name that `--device` takes.
    name: &'static str,
    available: bool,
    #[serde(flatten)]
    state: State,
    /// The adapters that can be chosen by number, as in `wgpu:1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adapters: Vec<String>,
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
    memory_free_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    /// `shared` where kernels read the memory that the host writes, else `discrete`.
    memory: String,
    /// `inline` where a kernel is done when its call returns, else `queued`.
    kernels: String,
    separate_copy_queue: bool,
}

pub(crate) fn run(_args: &Args, json: bool) -> Result<()> {
    let document = Document { devices: backends().into_iter().map(Entry::from).collect() };
    if json { output::json(&document) } else { Ok(print(&document)?) }
}

impl From<Backend> for Entry {
    fn from(Backend { name, device, adapters, .. }: Backend) -> Entry {
        let available = device.is_ok();
        let state = match device {
            Ok(device) => State::Here(Found::new(&*device)),
            // The row already names the backend.
            Err(DeviceError::Unavailable { reason, .. }) => State::Missing { reason },
            Err(error) => State::Missing { reason: error.to_string() },
        };
        Entry { name, available, state, adapters }
    }
}

impl Found {
    fn new(device: &dyn Kernels) -> Found {
        let (info, memory) = (device.info(), device.memory().ok());
        Found {
            description: info.name.clone(),
            memory_free_bytes: memory.map(|m| m.free),
            memory_total_bytes: memory.map(|m| m.total),
            memory: info.topology.memory.to_string(),
            kernels: info.topology.kernels.to_string(),
            separate_copy_queue: info.topology.separate_copy_queue,
        }
    }
}

fn print(document: &Document) -> io::Result<()> {
    let adapters = |entry: &Entry| -> Vec<[String; 3]> {
        let named = entry.adapters.iter().enumerate();
        named.map(|(i, a)| [format!("{}:{i}", entry.name), String::new(), a.clone()]).collect()
    };
    let rows: Vec<[String; 3]> = document
        .devices
        .iter()
        .flat_map(|entry| std::iter::once(row(entry)).chain(adapters(entry)))
        .collect();
    let mut out = io::stdout().lock();
    output::columns(&mut out, &rows, [false; 3])?;
    out.flush()
}

fn row(entry: &Entry) -> [String; 3] {
    match &entry.state {
        State::Missing { reason } => [entry.name.to_owned(), "-".to_owned(), reason.clone()],
        State::Here(found) => {
            let memory = match (found.memory_free_bytes, found.memory_total_bytes) {
                (Some(free), Some(total)) => format!("{} free of {}", ByteSize(free), ByteSize(total)),
                _ => "memory unknown".to_owned(),
            };
            [entry.name.to_owned(), memory, found.description.clone()]
        }
    }
}
