//! Layers are cut for the processor's caches where a pass waits for the disk, and nowhere else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vram_device::{Budget, Queue, Tier, Topology};
use vram_layers::schedule::Kept;
use vram_layers::{
    Costs, Engine, EngineOptions, LayerId, LayerSpec, Link, PassRequest, Plan, Setting, Split, check,
};
use vram_types::{DType, GeneratedSource, TensorMeta};

use crate::common::{bytes, cpu, options};

const LAYERS: usize = 8;
const LAYER: [usize; 2] = [8192, 2048];
const LAYER_BYTES: u64 = 16 << 20;
const TILE_BYTES: u64 = 4 << 20;
const BUDGET: u64 = 120 << 20;

/// Bytes that are alike.
const BLOCK: usize = 512;

/// What is at an offset of a layer.
fn value(layer: usize, offset: u64) -> u8 {
    ((offset / BLOCK as u64) as u8).wrapping_mul(7).wrapping_add(layer as u8)
}

/// An engine over layers of bytes from a disk that brings so many in a second, one read at a time.
fn engine(options: EngineOptions, bytes_per_second: f64) -> Engine {
    let meta = TensorMeta::new(DType::U8, LAYER).unwrap();
    let tensors = (0..LAYERS).map(|i| (format!("layer.{i}"), meta.clone()));
    let disk = Mutex::new(());
    let source = GeneratedSource::new(tensors, move |layer, offset, dst| {
        let _turn = disk.lock().unwrap_or_else(PoisonError::into_inner);
        std::thread::sleep(Duration::from_secs_f64(dst.len() as f64 / bytes_per_second));
        assert_eq!(offset % BLOCK as u64, 0);
        for (i, block) in dst.chunks_mut(BLOCK).enumerate() {
            block.fill(value(layer, offset + (i * BLOCK) as u64));
        }
    })
    .unwrap();
    let specs = (0..LAYERS)
        .map(|i| LayerSpec::new(format!("layer {i}"), [format!("layer.{i}")], Split::Rows))
        .collect();
    Engine::new(Arc::new(source), cpu(2, false), specs, options).unwrap()
}

/// Of the units that pass through the ring, and of those that stay.
fn largest(plan: &Plan) -> (u64, u64) {
    let of = |stays: bool| {
        plan.units.iter().filter(|u| (u.kept == Kept::Device) == stays).map(|u| u.bytes).max().unwrap()
    };
    (of(false), of(true))
}

#[test]
fn a_plan_has_small_tiles_where_it_waits_for_the_disk() {
    let engine = engine(options(0, None, 1), f64::INFINITY);
    let trace: Vec<LayerId> = (0..LAYERS).map(LayerId).collect();
    let plan = |compute: f64, host_visible| {
        let topology = Topology { host_visible, separate_copy_queue: !host_visible };
        let setting =
            Setting { topology, budget: BUDGET, host_budget: 1 << 20, staging: 1 << 20, host_weights: false };
        let costs = Costs {
            disk: Link { bytes_per_second: 1e9, latency_seconds: 0.0 },
            bus: Link { bytes_per_second: 10e9, latency_seconds: 0.0 },
            compute_seconds: vec![compute; LAYERS],
            unit_seconds: 20e-6,
        };
        let plan = engine.plan_for(&setting, &costs, 0, &trace).unwrap();
        assert_eq!(check(&plan), Ok(()));
        assert!(plan.peak_bytes <= BUDGET && plan.ring_bytes >= 12 << 20, "{plan:?}");
        plan
    };
    let (disk, (streamed, stays)) = (plan(2e-3, true), largest(&plan(2e-3, true)));
    assert!(streamed <= TILE_BYTES && stays > TILE_BYTES, "{streamed}, {stays}");
    let tiled = |plan: &Plan| largest(plan).0 <= TILE_BYTES;
    assert!(!tiled(&plan(2e-3, false)), "readers fill staging there");
    assert!(!tiled(&plan(12e-3, true)), "kernels take longer than the disk");
    let nearly = 0.95 * disk.bound_seconds / LAYERS as f64;
    let nearly = plan(nearly, true);
    assert!(nearly.bound_seconds < disk.bound_seconds * 1.01, "{nearly:?}");
    assert!(!tiled(&nearly), "with the tiles they would take longer than the disk");
}

#[test]
fn an_engine_cuts_its_layers_once_it_knows_the_disk() {
    let options = EngineOptions::new(Budget::new(Tier::Device, BUDGET));
    let budget = options.budget.clone();
    let engine = engine(options, 200e6);
    let mut cuts = Vec::new();
    for _ in 0..5 {
        let mut pass = engine.begin(PassRequest::default()).unwrap();
        for layer in 0..LAYERS {
            let mut at = 0;
            for tile in 0..pass.tiles(LayerId(layer)) {
                let lease = pass.lease(LayerId(layer), tile).unwrap();
                for block in bytes(&lease).chunks(BLOCK) {
                    let expected = [value(layer, at); BLOCK];
                    assert!(*block == expected[..block.len()], "layer {layer} at {at}");
                    at += block.len() as u64;
                }
                lease.finish(pass.device().ticket(Queue::Compute).unwrap());
            }
            assert_eq!(at, LAYER_BYTES);
        }
        let report = pass.finish().unwrap();
        assert!(report.evictions.is_empty(), "what stays is not read again: {:?}", report.evictions);
        cuts.push(largest(&engine.plan()));
    }
    assert!(cuts[..2].iter().all(|(streamed, _)| *streamed > TILE_BYTES), "nothing is known yet: {cuts:?}");
    assert!(cuts[2..].iter().all(|(streamed, _)| *streamed <= TILE_BYTES), "{cuts:?}");
    assert!(budget.peak() <= BUDGET);
}
