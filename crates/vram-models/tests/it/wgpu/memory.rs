//! What the device holds, as its own allocator counts it.

use std::sync::Arc;

use vram_device::wgpu::WgpuOptions;
use vram_device::{Budget, Kernels, Tier};
use vram_diskmap::DiskMap;
use vram_layers::{Managed, ModuleMap, VramConfig, VramLimit};
use vram_models::controlnet::ControlNet;
use vram_types::{DType, WeightSource};

use super::device;
use super::watched::{Most, Watched};
use crate::card::smallest;
use crate::common::{config, golden};
use crate::controlnet::{managed, output, with_inputs};
use crate::minilm::MiniLm;

/// Buffers beside those that the budgets count: 4 MiB through which results come back, 0.3 MiB of parameters and of what
/// copies are shifted in, and what wgpu has of its own: 0.5 MiB of zeros, and the parameters that are on their way.
const OVERHEAD: u64 = (5 << 20) + (256 << 10);

/// Blocks in which nothing lies, or not all: what is smaller than 4 MiB shares blocks of 4 MiB with others.
const FREE_IN_BLOCKS: u64 = 12 << 20;

fn watched() -> Option<Arc<Watched>> {
    let watched = Watched::new(device(WgpuOptions::default())?);
    if watched.is_none() {
        println!("skipped: the API underneath has no allocator of its own");
    }
    watched.map(Arc::new)
}

fn controlnet(device: &Arc<Watched>, config: VramConfig) -> Managed<ControlNet> {
    let source: Arc<dyn WeightSource> =
        Arc::new(DiskMap::open(golden("controlnet_small.safetensors")).unwrap());
    managed(source, Arc::<Watched>::clone(device) as Arc<dyn Kernels>, &ModuleMap::standard(), config)
}

fn limited(dtype: DType, device: u64, host: u64) -> VramConfig {
    VramConfig { host_limit: Budget::new(Tier::Host, host), ..config(dtype, device) }
}

fn check(what: &str, watched: &Watched, config: &VramConfig) {
    let Most { allocated, reserved, looks, .. } = watched.take();
    let (device, host) = (config.vram_limit.peak(), config.host_limit.peak());
    assert!(device > 0 && device <= config.vram_limit.limit() && looks > 100);
    let (beside, free) = (allocated.saturating_sub(device + host), reserved - allocated);
    println!(
        "{what}: {device} bytes at most by the ledger and {host} of staging; {allocated} by the allocator, {beside} more, \
         in blocks of {reserved}; {looks} looks"
    );
    assert!(allocated >= device && beside <= OVERHEAD, "{beside} bytes that no budget counts");
    assert!(free <= FREE_IN_BLOCKS, "{free} bytes that are free in blocks");
}

#[test]
fn what_the_device_holds_at_any_time_is_within_the_budgets() {
    let Some(watched) = watched() else { return };
    let smallest = smallest(&controlnet(&watched, config(DType::BF16, 0)));
    for budget in [smallest, 1 << 20, 16 << 20] {
        watched.take();
        let config = limited(DType::BF16, budget, 1 << 20);
        let model = controlnet(&watched, config.clone());
        (0..3).for_each(|_| drop(output(&model)));
        check(&format!("ControlNet under {budget}"), &watched, &config);
    }
    let Some(minilm) = MiniLm::open() else { return };
    let ids: Vec<&[u32]> = minilm.ids.iter().take(1).map(Vec::as_slice).collect();
    for budget in [20 << 20, 1 << 30] {
        watched.take();
        let config = limited(DType::F32, budget, 16 << 20);
        let model = minilm.on(Arc::<Watched>::clone(&watched), config.clone());
        (0..2).for_each(|_| drop(model.run(|m, fwd| m.embed(fwd, &ids)).unwrap()));
        check(&format!("MiniLM under {budget}"), &watched, &config);
    }
}

/// A card that is smaller than the budget: the first allocation is refused, or the ring is taken and the workspace is
/// refused, or residents are.
#[test]
fn an_allocation_that_fails_half_way_through_admission_is_rolled_back() {
    let Some(watched) = watched() else { return };
    let resident = output(&controlnet(&watched, config(DType::F32, 1 << 30)));
    let config = limited(DType::F32, 1 << 20, 256 << 10);
    let model = controlnet(&watched, config.clone());
    let smallest = smallest(&model);
    let (held, at_rest) = (config.host_limit.used(), watched.usage().allocated);
    let run = || with_inputs(|inputs| model.run(|m, fwd| m.forward(fwd, inputs)));
    let mut half_way = 0;
    for room in (0..1 << 20).step_by(64 << 10) {
        watched.take();
        watched.shrink_to(at_rest + room);
        let Err(error) = run() else { break };
        assert!(error.is_oom() && error.to_string().contains("the card is full"), "{error}");
        // Residents come one by one in the pass, and those that came stay.
        let taken = watched.take().allocations;
        if taken < 2 {
            assert_eq!((config.vram_limit.used(), config.host_limit.used()), (0, held), "with {room} bytes");
            assert_eq!(watched.usage().allocated, at_rest);
            half_way += taken;
        }
        // What fits the card is admitted after that, by the same engine.
        if room >= smallest {
            model.engine().set_limit(VramLimit::Bytes(smallest)).unwrap();
            assert!(run().unwrap() == resident, "{smallest} bytes after a failure");
            assert!(config.vram_limit.used() <= smallest);
            model.engine().set_limit(VramLimit::Bytes(1 << 20)).unwrap();
        }
    }
    assert!(half_way > 0, "no workspace was refused after a ring had been taken");
    watched.shrink_to(u64::MAX);
    assert!(run().unwrap() == resident);
}
