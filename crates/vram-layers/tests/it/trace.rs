//! A trace is what a viewer opens, and it tells of the same bytes and waits as the report.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use vram_layers::{Observer, PassReport, PassRequest, Split, Trace, VramLimit};

use crate::common::{Raw, in_time, options};
use crate::source::Layout;

/// Three passes of eight layers under a budget for four, then two under one for three; what they reported.
fn traced(discrete: bool) -> (Value, Vec<PassReport>) {
    in_time("traced passes", move || {
        let raw = Raw::new(&[(10, 1000, Split::Whole); 8], &Layout::plain(), 11);
        let trace = Arc::new(Trace::new());
        let mut options = options(50_000, Some(20_000), 3);
        // Another plan would drop what was read ahead for this one, and what nobody used is not reported.
        options.calibrate = false;
        options.observer = Some(Arc::clone(&trace) as Arc<dyn Observer>);
        let engine = raw.engine(options, discrete);
        let mut reports = Vec::new();
        for number in 0..5 {
            if number == 3 {
                engine.set_limit(VramLimit::Bytes(40_000)).unwrap();
            }
            // Nothing is read ahead for a pass that is not reported.
            let request = PassRequest { last: number == 2 || number == 4, ..PassRequest::default() };
            let mut pass = engine.begin(request).unwrap();
            (0..8).for_each(|layer| raw.check(&mut pass, layer).unwrap());
            reports.push(pass.finish().unwrap());
        }
        // Readers tell of their last copies when they go.
        drop(engine);
        let text = serde_json::to_string(&*trace).unwrap();
        (serde_json::from_str(&text).unwrap(), reports)
    })
}

fn of<'a>(trace: &'a Value, phase: &str, category: &str) -> Vec<&'a Value> {
    let events = trace["traceEvents"].as_array().unwrap().iter();
    events.filter(|e| e["ph"] == phase && (category.is_empty() || e["cat"] == category)).collect()
}

/// Nanoseconds, which the format writes as thousandths.
fn nanos(event: &Value, field: &str) -> u64 {
    (event[field].as_f64().unwrap() * 1e3).round() as u64
}

fn check(discrete: bool) {
    let (trace, reports) = traced(discrete);
    let mut lanes: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for slice in of(&trace, "X", "") {
        let start = nanos(slice, "ts");
        lanes.entry(slice["tid"].as_u64().unwrap()).or_default().push((start, start + nanos(slice, "dur")));
    }
    for (lane, slices) in &mut lanes {
        slices.sort_unstable();
        assert!(slices.windows(2).all(|w| w[0].1 <= w[1].0), "lane {lane} overlaps: {slices:?}");
    }
    let names: BTreeMap<u64, &str> = of(&trace, "M", "")
        .into_iter()
        .filter(|e| e["name"] == "thread_name")
        .map(|e| (e["tid"].as_u64().unwrap(), e["args"]["name"].as_str().unwrap()))
        .collect();
    assert!(lanes.keys().all(|lane| names.contains_key(lane)), "{names:?}");
    for track in ["passes", "disk", "copy", "compute", "stalls"] {
        assert!(names.values().any(|name| *name == track), "{names:?}");
    }

    let bytes = |category| -> u64 {
        of(&trace, "X", category).iter().map(|e| e["args"]["bytes"].as_u64().unwrap()).sum()
    };
    let sum = |f: fn(&PassReport) -> u64| reports.iter().map(f).sum::<u64>();
    assert_eq!(bytes("disk"), sum(|r| r.disk_bytes));
    assert_eq!(bytes("copy"), if discrete { sum(|r| r.device_bytes) } else { 0 });
    assert_eq!(of(&trace, "X", "passes").len(), 5);
    assert_eq!(of(&trace, "X", "compute").len(), 5 * 8);

    let stalls = of(&trace, "X", "stalls");
    let (causes, expected): (Vec<&Value>, Vec<_>) = (
        stalls.iter().map(|e| &e["args"]["cause"]).collect(),
        reports.iter().flat_map(|r| &r.stalls).map(|s| serde_json::to_value(s.cause).unwrap()).collect(),
    );
    assert_eq!(causes, expected.iter().collect::<Vec<_>>());
    let evicted: Vec<&str> =
        of(&trace, "i", "passes").iter().map(|e| e["args"]["unit"].as_str().unwrap()).collect();
    let expected: Vec<&str> = reports.iter().flat_map(|r| &r.evictions).map(|e| &*e.unit).collect();
    assert_eq!(evicted, expected);
    assert!(!expected.is_empty(), "the smaller budget evicts");
}

#[test]
fn in_place() {
    check(false);
}

#[test]
fn over_a_bus() {
    check(true);
}
