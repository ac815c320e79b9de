//! Costs that were measured make another plan where it pays, once, and keep of the old one what both have.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use vram_device::{Budget, Queue, Tier};
use vram_layers::schedule::Residency;
use vram_layers::{
    Costs, Engine, EngineOptions, EvictionReason, LayerId, LayerSpec, Link, PassReport, PassRequest, Split,
};
use vram_types::{DType, GeneratedSource, TensorMeta};

use crate::common::{bytes, cpu, in_time};

const LAYERS: usize = 12;
/// Layers of which the kernels are slow: the first ones as the engine is told, the last ones in truth.
const SLOW: usize = LAYERS / 3;
/// So many that two plans have some of them in common.
const STAY: u64 = 8;
const LAYER_BYTES: u64 = 1 << 20;

/// A layer's read takes so long, and a slow layer's kernels.
const LONG: Duration = Duration::from_millis(5);

/// An engine with a ring of two layers, which is told the wrong costs.
fn engine(calibrate: bool) -> Engine {
    let meta = TensorMeta::new(DType::U8, [LAYER_BYTES as usize]).unwrap();
    let tensors = (0..LAYERS).map(|i| (format!("layer.{i}"), meta.clone()));
    let source = GeneratedSource::new(tensors, |layer, _, dst| {
        sleep(LONG.mul_f64(dst.len() as f64 / LAYER_BYTES as f64));
        dst.fill(layer as u8);
    })
    .unwrap();
    let specs = (0..LAYERS)
        .map(|i| LayerSpec::new(format!("layer {i}"), [format!("layer.{i}")], Split::Whole))
        .collect();
    let slow = |layer| if layer < SLOW { LONG.as_secs_f64() } else { 0.0 };
    let mut options = EngineOptions::new(Budget::new(Tier::Device, (STAY + 2) * LAYER_BYTES));
    (options.ring, options.readers, options.calibrate) = (Some(2 * LAYER_BYTES), 1, calibrate);
    options.costs = Some(Costs {
        disk: Link { bytes_per_second: LAYER_BYTES as f64 / LONG.as_secs_f64(), latency_seconds: 0.0 },
        bus: Link { bytes_per_second: 10e9, latency_seconds: 0.0 },
        compute_seconds: (0..LAYERS).map(slow).collect(),
        unit_seconds: 0.0,
    });
    Engine::new(Arc::new(source), cpu(1, false), specs, options).unwrap()
}

/// A pass in which it is the last layers that are slow.
fn pass(engine: &Engine) -> PassReport {
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    for layer in 0..LAYERS {
        let lease = pass.lease(LayerId(layer), 0).unwrap();
        assert!(bytes(&lease).iter().all(|&byte| byte == layer as u8), "layer {layer}");
        if layer >= LAYERS - SLOW {
            sleep(LONG);
        }
        lease.finish(pass.device().ticket(Queue::Compute).unwrap());
    }
    pass.finish().unwrap()
}

/// Whether each layer stays on the device.
fn stays(engine: &Engine) -> Vec<bool> {
    engine.plan().units.iter().map(|unit| unit.kept == Residency::Device).collect()
}

fn count(layers: impl IntoIterator<Item = bool>) -> usize {
    layers.into_iter().filter(|there| *there).count()
}

#[test]
fn measured_costs_make_another_plan() {
    in_time("measured costs", || {
        let engine = engine(true);
        let first = |stays: &[bool]| stays[..SLOW].to_vec();
        let loaded = pass(&engine).disk_bytes;
        let told = stays(&engine);
        assert_eq!(loaded, LAYERS as u64 * LAYER_BYTES);
        assert_eq!(count(first(&told)), 0, "as it was told: {told:?}");
        pass(&engine);
        assert_eq!(stays(&engine), told, "two passes are measured");

        let third = pass(&engine);
        let measured = stays(&engine);
        assert!(count(first(&measured)) > 0, "{measured:?}");
        let both = count(told.iter().zip(&measured).map(|(told, measured)| *told && *measured));
        assert!(both > 0, "{told:?}, {measured:?}");
        assert_eq!(third.evictions.len(), count(told) - both);
        assert!(third.evictions.iter().all(|e| e.reason == EvictionReason::Costs), "{:?}", third.evictions);
        assert_eq!(third.disk_bytes, (LAYERS - both) as u64 * LAYER_BYTES, "what both plans keep stays");

        for _ in 0..3 {
            let later = pass(&engine);
            assert_eq!((later.evictions.len(), stays(&engine)), (0, measured.clone()));
            assert_eq!(later.disk_bytes, (LAYERS - count(measured.clone())) as u64 * LAYER_BYTES);
        }
        assert!(engine.budget().peak() <= engine.budget().limit());
    });
}

#[test]
fn nobody_measures_who_was_not_asked_to() {
    in_time("declared costs", || {
        let engine = engine(false);
        pass(&engine);
        let told = stays(&engine);
        for _ in 0..4 {
            assert!(pass(&engine).evictions.is_empty());
            assert_eq!(stays(&engine), told);
        }
    });
}
