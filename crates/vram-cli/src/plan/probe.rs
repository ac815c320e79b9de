//! Measures this machine: reads a stretch of the file, and runs some layers with the real kernels.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use vram_diskmap::DiskMap;
use vram_stream::device::{Execution, Memory, Queue};
use vram_stream::layers::{Costs, EngineOptions, Event, LayerWork, Link, Observer};
use vram_stream::{Budget, Device, Lifetime, Tier, VramConfig, WeightSource};
use vram_types::{FileId, ReadOptions, ReadRequest};

use crate::arch::{Opening, Subject};
use crate::args::{Read, Waits};
use crate::checkpoint;
use crate::engine::explain;

/// Reader threads and bytes per read, as in the engine.
const READERS: usize = EngineOptions::READERS;
const PIECE: usize = EngineOptions::PIECE_BYTES as usize;

/// The most to read, and for how long.
const STRETCH: u64 = 1 << 30;
const READING: Duration = Duration::from_millis(700);

/// How many copies to the device are timed, and for how long.
const COPIES: usize = 64;
const COPYING: Duration = Duration::from_millis(200);

/// Bytes of weights to run: more than the processor's caches hold, so that they come from memory
/// as in a full pass.
const WEIGHTS: f64 = 256e6;
/// Operations per pass at most, to keep the probe short.
const FLOPS: f64 = 1.5e11;
/// How many passes are timed, and for how long.
const PASSES: usize = 7;
const RUNNING: Duration = Duration::from_millis(700);

/// What was probed, and the results.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Probe {
    /// How the file was read.
    pub(super) read: Read,
    /// Bytes of the file that were read.
    pub(super) read_bytes: u64,
    pub(super) read_bytes_per_second: f64,
    /// From host memory to the device, if these are separate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bus_bytes_per_second: Option<f64>,
    /// How many layers ran, and how many distinct shapes they have.
    pub(super) layers: usize,
    pub(super) shapes: usize,
    /// Bytes of their weights.
    pub(super) weights_bytes: u64,
    /// How many passes were timed.
    pub(super) passes: usize,
    /// Overhead per use of a layer, beyond its kernels.
    pub(super) unit_seconds: f64,
    /// Duration of the whole probe.
    pub(super) seconds: f64,
}

/// Measures the costs of the layers of `subject` on this machine.
pub(super) fn probe(
    opening: &Opening<'_>,
    subject: &dyn Subject,
    from: Waits,
    config: VramConfig,
) -> Result<(Costs, Probe)> {
    let start = Instant::now();
    let shared = opening.device.info().topology.memory == Memory::Shared;
    // With --from host, weights are in the page cache only if the device uses host memory.
    let cached = from == Waits::Host && shared;
    let read = if cached { Read::Pread } else { Read::Direct };
    let source = checkpoint::open(DiskMap::options(), opening.path, read)?;
    if cached {
        reading(&source)?;
    }
    let (read_bytes, seconds) = reading(&source)?;
    let disk = Link { bytes_per_second: read_bytes as f64 / seconds, latency_seconds: 0.0 };
    let work = subject.work().map_err(explain)?;
    let kernels = kernels(opening, &work, config)?;
    let costs = Costs {
        disk,
        bus: if shared { disk } else { bus(&*opening.device)? },
        compute_seconds: kernels.seconds(&work)?,
        unit_seconds: kernels.unit_seconds,
    };
    let probe = Probe {
        read,
        bus_bytes_per_second: (!shared).then_some(costs.bus.bytes_per_second),
        read_bytes,
        read_bytes_per_second: disk.bytes_per_second,
        layers: kernels.layers,
        shapes: kernels.by_work.len(),
        weights_bytes: kernels.weights_bytes,
        passes: kernels.passes,
        unit_seconds: kernels.unit_seconds,
        seconds: start.elapsed().as_secs_f64(),
    };
    Ok((costs, probe))
}

/// Reads a stretch of the largest file as the engine's readers do. Returns bytes and seconds.
fn reading(source: &DiskMap) -> Result<(u64, f64)> {
    let files = (0..).map(FileId).map_while(|file| Some((source.file_bytes(file)?, file)));
    let (bytes, file) = files.max().context("no file to read")?;
    let stretch = bytes.min(STRETCH);
    let (next, read, start) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    let reader = || -> Result<()> {
        let align = usize::try_from(source.alignment())?;
        let mut memory = vec![0; PIECE + 2 * align];
        // Touch the pages first, so that page faults are not counted as disk time.
        memory.fill(1);
        let at = memory.as_ptr().align_offset(align);
        while start.elapsed() < READING {
            let offset = next.fetch_add(PIECE as u64, Ordering::Relaxed);
            let Some(wanted) = stretch.checked_sub(offset).filter(|left| *left > 0) else { break };
            let wanted = wanted.min(PIECE as u64);
            let mut request = ReadRequest::file(file, offset, &mut memory);
            (request.bytes, request.at) = (wanted, at);
            source.read_many(&mut [request], &ReadOptions::BLOCKING)?;
            read.fetch_add(wanted, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(reader)).collect();
        let ended = readers.into_iter().map(|r| r.join().map_err(|_| anyhow!("a reader panicked"))?);
        ended.collect::<Result<()>>()
    })?;
    Ok((read.into_inner(), start.elapsed().as_secs_f64().max(1e-9)))
}

/// Copies staging to the device as readers do, with long and with short copies.
fn bus(device: &dyn Device) -> Result<Link> {
    let (host, far) = (Budget::new(Tier::Host, u64::MAX), Budget::new(Tier::Device, u64::MAX));
    let piece = PIECE as u64;
    let mut staging = device.stage(host.reserve(Lifetime::Pass, piece)?)?;
    let region = device.allocate(far.reserve(Lifetime::Pass, piece)?)?.into_region();
    let mut part = region.into_parts(&[])?.pop().context("a region without parts")?;
    let mut seconds = |bytes: u64| -> Result<f64> {
        let (mut all, start) = (Vec::new(), Instant::now());
        while all.len() < 3 || (start.elapsed() < COPYING && all.len() < COPIES) {
            // Fill the buffer as a reader would, untimed: that time belongs to the disk.
            staging.host_mut().fill(1);
            let start = Instant::now();
            device.wait(device.upload(&staging, 0..bytes, &mut part, 0)?)?;
            all.push(start.elapsed().as_secs_f64());
        }
        Ok(median(all))
    };
    let (long, short) = (seconds(piece)?, seconds(4096)?);
    let moving = (long - short).max(1e-9);
    Ok(Link { bytes_per_second: piece as f64 / moving, latency_seconds: short })
}

/// Measured times of the layers that ran.
struct Kernels {
    /// Seconds of a layer's kernels, keyed by its bytes and operations.
    by_work: BTreeMap<(u64, u64), f64>,
    unit_seconds: f64,
    layers: usize,
    weights_bytes: u64,
    passes: usize,
}

impl Kernels {
    /// The seconds of each layer; zero for layers that no pass uses.
    fn seconds(&self, work: &[(String, LayerWork)]) -> Result<Vec<f64>> {
        work.iter()
            .map(|(name, w)| match self.by_work.get(&(w.bytes, w.flops)) {
                Some(seconds) => Ok(*seconds),
                // A table: a pass reads only some rows.
                None if w.flops == 0 => Ok(0.0),
                None => Err(anyhow!("no probed layer has the size of {name:?}")),
            })
            .collect()
    }
}

/// Runs some of the layers, all resident, until their times are known.
fn kernels(opening: &Opening<'_>, work: &[(String, LayerWork)], mut config: VramConfig) -> Result<Kernels> {
    let sum = |of: fn(&LayerWork) -> u64| work.iter().map(|(_, w)| of(w) as f64).sum::<f64>().max(1.0);
    let share = (WEIGHTS / sum(|w| w.bytes)).min(FLOPS / sum(|w| w.flops)).min(1.0);
    let spans = Arc::new(Spans::of(Arc::clone(&opening.device)));
    config.observer = Some(Arc::clone(&spans) as Arc<dyn Observer>);
    let subject = opening.open(share, config)?;
    let work: HashMap<String, LayerWork> = subject.work().map_err(explain)?.into_iter().collect();
    // The first pass loads weights and wakes threads, so it is not timed.
    subject.run().map_err(explain)?;
    spans.clear();
    let (mut busy, mut passes, start) = (0.0, 0, Instant::now());
    while passes < 2 || (passes < PASSES && start.elapsed() < RUNNING) {
        busy += subject.run().map_err(explain)?;
        passes += 1;
    }
    let spans = spans.take();
    let uses = spans.len().max(1) as f64;
    let inside: f64 = spans.iter().map(|(_, seconds)| seconds).sum();
    let mut by_work: BTreeMap<(u64, u64), Vec<f64>> = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    for (name, seconds) in &spans {
        let w = work.get(&**name).with_context(|| format!("{name:?} ran, but is not a layer"))?;
        by_work.entry((w.bytes, w.flops)).or_default().push(*seconds);
        names.push(name);
    }
    names.sort_unstable();
    names.dedup();
    Ok(Kernels {
        by_work: by_work.into_iter().map(|(key, all)| (key, median(all))).collect(),
        unit_seconds: ((busy - inside) / uses).max(0.0),
        layers: names.len(),
        weights_bytes: subject.weights_bytes(),
        passes,
    })
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// Uses of layers, each with its name and its seconds.
#[derive(Debug)]
struct Spans {
    /// A device with its own queues, to be waited for after each layer: a forward only issues
    /// kernels there.
    waited_for: Option<Arc<dyn vram_stream::Kernels>>,
    uses: Mutex<Vec<(Arc<str>, f64)>>,
}

impl Spans {
    fn of(device: Arc<dyn vram_stream::Kernels>) -> Spans {
        let waited_for = Some(device).filter(|device| device.info().topology.kernels == Execution::Queued);
        Spans { waited_for, uses: Mutex::default() }
    }

    fn clear(&self) {
        self.take();
    }

    fn take(&self) -> Vec<(Arc<str>, f64)> {
        std::mem::take(&mut *self.uses.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Spans {
    fn event(&self, event: &Event<'_>) {
        if let Event::Computed { unit, span } = event {
            let mut end = span.end;
            if let Some(device) = &self.waited_for {
                // If the device fails, the pass reports it.
                let _ = device.ticket(Queue::Compute).and_then(|ticket| device.wait(ticket));
                end = Instant::now();
            }
            let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.push((Arc::clone(unit), (end - span.start).as_secs_f64()));
        }
    }
}
