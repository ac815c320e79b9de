//! A trace of passes, as tracks over time for a trace viewer.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use crate::observe::event::{Event, EvictionReason, Observer, Span, StallCause};

/// An [`Observer`] that records all events. Serialised, for example with `serde_json`, it is the JSON object
/// format of Chrome's trace events, which Perfetto opens.
///
/// There is one track each for passes, disk, copies, the computing thread, and its waits, each wait named by
/// its cause; evictions are instants on the track of the passes. Where transfers overlap, as those of several
/// readers do, a track has more lanes, so that nothing in one lane overlaps. A copy is recorded when its
/// staging is used again, and the last one when the engine is dropped. A trace grows by some hundred bytes
/// for each event, without limit.
pub struct Trace {
    origin: Instant,
    records: Mutex<Vec<Record>>,
}

#[derive(Clone, Debug)]
struct Record {
    track: Track,
    what: What,
    /// Nanoseconds since the origin.
    start: u64,
    end: u64,
}

#[derive(Clone, Debug)]
enum What {
    Pass { number: u64 },
    Transfer { unit: Arc<str>, bytes: u64 },
    Compute { unit: Arc<str> },
    Stall { unit: Arc<str>, cause: StallCause },
    Eviction { unit: Arc<str>, bytes: u64, reason: EvictionReason },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Track {
    Passes,
    Disk,
    Copy,
    Compute,
    Stalls,
}

impl Track {
    const ALL: [Track; 5] = [Track::Passes, Track::Disk, Track::Copy, Track::Compute, Track::Stalls];

    fn name(self) -> &'static str {
        match self {
            Track::Passes => "passes",
            Track::Disk => "disk",
            Track::Copy => "copy",
            Track::Compute => "compute",
            Track::Stalls => "stalls",
        }
    }
}

impl Trace {
    /// An empty trace whose clock starts now.
    pub fn new() -> Trace {
        Trace { origin: Instant::now(), records: Mutex::default() }
    }

    fn records(&self) -> std::sync::MutexGuard<'_, Vec<Record>> {
        // A record is added in one step.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, track: Track, span: Span, what: What) {
        let nanos = |at: Instant| {
            u64::try_from(at.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
        };
        let record = Record { track, what, start: nanos(span.start), end: nanos(span.end) };
        self.records().push(record);
    }

    fn add_pass(&self, span: Span) {
        let number = 1 + self.records().iter().filter(|r| matches!(r.what, What::Pass { .. })).count() as u64;
        self.add(Track::Passes, span, What::Pass { number });
    }
}

impl Default for Trace {
    fn default() -> Trace {
        Trace::new()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("records", &self.records().len()).finish()
    }
}

impl Observer for Trace {
    fn event(&self, event: &Event<'_>) {
        match *event {
            Event::Read { unit, bytes, span } => {
                self.add(Track::Disk, span, What::Transfer { unit: Arc::clone(unit), bytes });
            }
            Event::Copied { unit, bytes, span } => {
                self.add(Track::Copy, span, What::Transfer { unit: Arc::clone(unit), bytes });
            }
            Event::Computed { unit, span } => {
                self.add(Track::Compute, span, What::Compute { unit: Arc::clone(unit) });
            }
            Event::Stalled { unit, cause, span } => {
                self.add(Track::Stalls, span, What::Stall { unit: Arc::clone(unit), cause });
            }
            Event::Evicted { unit, bytes, reason } => {
                let now = Span::since(Instant::now());
                self.add(Track::Passes, now, What::Eviction { unit: Arc::clone(unit), bytes, reason });
            }
            Event::Passed { span } => self.add_pass(span),
            Event::Progress { .. } => {}
        }
    }
}

impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut records = self.records().clone();
        records.sort_by_key(|r| (r.track, r.start, r.end));
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("displayTimeUnit", "ms")?;
        map.serialize_entry("traceEvents", &Events(laid_out(records)))?;
        map.end()
    }
}

/// A record and the lane of its track, from 0.
type Laid = (Record, usize);

/// Puts each record into the first lane of its track that is free by then.
fn laid_out(records: Vec<Record>) -> Vec<Laid> {
    let mut free: [Vec<u64>; Track::ALL.len()] = Default::default();
    let mut laid = Vec::with_capacity(records.len());
    for record in records {
        if matches!(record.what, What::Eviction { .. }) {
            laid.push((record, 0));
            continue;
        }
        let lanes = &mut free[record.track as usize];
        let lane = lanes.iter().position(|end| *end <= record.start).unwrap_or(lanes.len());
        if lane == lanes.len() {
            lanes.push(0);
        }
        lanes[lane] = record.end;
        laid.push((record, lane));
    }
    laid
}

/// Lanes per track, so that lane numbers of tracks do not collide.
const LANES: usize = 1000;

fn thread(track: Track, lane: usize) -> usize {
    track as usize * LANES + lane.min(LANES - 1) + 1
}

struct Events(Vec<Laid>);

impl Serialize for Events {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut events = serializer.serialize_seq(None)?;
        events.serialize_element(&Meta::new("process_name", 0, About::Name("vram".into())))?;
        for track in Track::ALL {
            let used = self.0.iter().filter(|(r, _)| r.track == track).map(|(_, lane)| lane + 1).max();
            for lane in 0..used.unwrap_or(1) {
                let name = match lane {
                    0 => track.name().to_owned(),
                    n => format!("{} {}", track.name(), n + 1),
                };
                let thread = thread(track, lane);
                events.serialize_element(&Meta::new("thread_name", thread, About::Name(name)))?;
                events.serialize_element(&Meta::new(
                    "thread_sort_index",
                    thread,
                    About::SortIndex(thread),
                ))?;
            }
        }
        for (record, lane) in &self.0 {
            events.serialize_element(&TraceEvent::new(record, thread(record.track, *lane)))?;
        }
        events.end()
    }
}

/// The one process.
const PROCESS: u32 = 1;

/// What a track is called, or where it stands.
#[derive(serde::Serialize)]
struct Meta {
    ph: &'static str,
    name: &'static str,
    pid: u32,
    tid: usize,
    args: About,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum About {
    Name(String),
    SortIndex(usize),
}

impl Meta {
    fn new(name: &'static str, tid: usize, args: About) -> Meta {
        Meta { ph: "M", name, pid: PROCESS, tid, args }
    }
}

/// A slice, or an instant.
#[derive(serde::Serialize)]
struct TraceEvent<'a> {
    name: String,
    cat: &'static str,
    ph: &'static str,
    pid: u32,
    tid: usize,
    /// In microseconds, as the format requires.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    /// The scope of an instant: the whole process.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    args: Details<'a>,
}

/// What the viewer shows when a slice is clicked.
#[derive(Default, serde::Serialize)]
struct Details<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<StallCause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<EvictionReason>,
}

impl TraceEvent<'_> {
    fn new(record: &Record, tid: usize) -> TraceEvent<'_> {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let instant = matches!(record.what, What::Eviction { .. });
        let (name, args) = record.what.describe();
        TraceEvent {
            name,
            cat: record.track.name(),
            ph: if instant { "i" } else { "X" },
            pid: PROCESS,
            tid,
            ts: micros(record.start),
            dur: (!instant).then(|| micros(record.end.saturating_sub(record.start))),
            s: instant.then_some("p"),
            args,
        }
    }
}

impl What {
    fn describe(&self) -> (String, Details<'_>) {
        let of = |unit| Details { unit: Some(unit), ..Details::default() };
        match self {
            What::Pass { number } => (format!("pass {number}"), Details::default()),
            What::Transfer { unit, bytes } => (unit.to_string(), Details { bytes: Some(*bytes), ..of(unit) }),
            What::Compute { unit } => (unit.to_string(), of(unit)),
            What::Stall { unit, cause } => (cause.to_string(), Details { cause: Some(*cause), ..of(unit) }),
            What::Eviction { unit, bytes, reason } => {
                let args = Details { bytes: Some(*bytes), reason: Some(*reason), ..of(unit) };
                (format!("evicted {unit}"), args)
            }
        }
    }
}
