//! Inputs that are longer than what is copied at a time, on a device that copies late.

use std::sync::Arc;

use vram_alloc::skip_init;
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::sim::{Lateness, Sim, SimOptions, SimProfile, SimTopology};
use vram_device::{Budget, Kernels, Tier};
use vram_layers::layers::Embedding;
use vram_layers::{Error, ModuleMap, VramConfig, enable_vram_management};
use vram_types::{DType, TensorMeta};

use crate::common::Random;
use crate::sim_common::Held;
use crate::source::{Layout, MemorySource};

/// What comes back of an input of so many floats, twice in a row.
fn echoed(floats: usize, host_bytes: u64, topology: SimTopology) -> Result<(), Error> {
    let cpu = Arc::new(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap());
    let profile = SimProfile { memory_bytes: 16 << 20, ..SimProfile::default() };
    let options = SimOptions { profile, topology, lateness: Lateness::Copies, ..SimOptions::default() };
    let sim = Arc::new(Sim::over(cpu, options).unwrap());
    let (budget, host) = (Budget::new(Tier::Device, 12 << 20), Budget::new(Tier::Host, host_bytes));
    let held = Held { sim: Arc::clone(&sim), budget: budget.clone(), host: host.clone() };

    let mut random = Random::new(floats as u64);
    let mut source = MemorySource::new(Layout::plain());
    source.add(&mut random, "weight", TensorMeta::new(DType::F32, [2, 2]).unwrap(), vec![0; 16]);
    let config = VramConfig { host_limit: host, ..VramConfig::disk(DType::F32, budget) };
    let model = skip_init(|| Embedding::new(2, 2, DType::F32)).unwrap();
    let device: Arc<dyn Kernels> = sim;
    let model =
        enable_vram_management(model, Arc::new(source.finish()), device, &ModuleMap::standard(), config)?;
    let input: Vec<u8> = (0..floats).flat_map(|_| random.value().to_le_bytes()).collect();
    let meta = TensorMeta::new(DType::F32, [floats]).unwrap();
    let both = (0..2).try_for_each(|_| {
        let output = model.run(|_, fwd| {
            let x = fwd.input(&input, &meta)?;
            fwd.download(&x)
        })?;
        assert!(output == input, "{floats} floats");
        Ok(())
    });
    drop(model);
    held.check_empty();
    both
}

#[test]
fn inputs_come_whole_whatever_their_length() {
    const MIB: usize = (1 << 20) / 4;
    for topology in [SimTopology::SeparateCopyQueue, SimTopology::OneQueue] {
        for floats in [1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 1, 4 * MIB + 3] {
            echoed(floats, 64 << 20, topology).unwrap();
        }
    }
}

/// There is room for one of the two buffers that an input of two pieces goes through.
#[test]
fn an_input_without_room_for_its_buffers_is_refused_and_leaves_nothing() {
    let error = echoed(1 << 19, 3 << 20, SimTopology::SeparateCopyQueue).unwrap_err();
    assert!(error.is_oom(), "{error}");
}
