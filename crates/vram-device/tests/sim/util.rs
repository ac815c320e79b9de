use std::sync::{Arc, LazyLock};
use std::time::Duration;

use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::sim::{Cost, Lateness, Sim, SimOptions, SimProfile, SimTopology};
use vram_device::{Arena, Budget, Device, Lifetime, Region, Staging, Ticket, Tier, View, ViewMut};
use vram_types::{DType, TensorMeta};

pub const TOPOLOGIES: [SimTopology; 2] = [SimTopology::SeparateCopyQueue, SimTopology::OneQueue];

pub fn latenesses() -> Vec<Lateness> {
    let fixed = [Lateness::Nothing, Lateness::Copies, Lateness::Kernels];
    fixed.into_iter().chain((0..4).map(Lateness::Seeded)).collect()
}

static CPU: LazyLock<Arc<Cpu>> =
    LazyLock::new(|| Arc::new(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap()));

pub fn sim_with(options: SimOptions) -> Sim {
    Sim::over(Arc::clone(&CPU), options).unwrap()
}

pub fn sim(lateness: Lateness, topology: SimTopology) -> Sim {
    sim_with(SimOptions { lateness, topology, ..SimOptions::default() })
}

/// A byte and a nanosecond per byte copied, 100 ns for each copy and 10 for each kernel, nothing else.
pub fn slow() -> SimProfile {
    SimProfile {
        memory_bytes: 10_000,
        copy_bytes_per_second: 1e9,
        copy_latency: Duration::from_nanos(100),
        flops_per_second: 1e9,
        memory_bytes_per_second: 2e9,
        kernel_latency: Duration::from_nanos(10),
    }
}

fn unlimited() -> Budget {
    Budget::new(Tier::Device, u64::MAX)
}

pub fn region(sim: &Sim, bytes: u64) -> Region {
    sim.allocate(unlimited().reserve(Lifetime::Weights, bytes).unwrap()).unwrap().into_region()
}

pub fn ring(sim: &Sim, bytes: u64) -> Arena {
    Arena::ring(vec![sim.allocate(unlimited().reserve(Lifetime::Weights, bytes).unwrap()).unwrap()])
}

pub fn staging(sim: &Sim, bytes: &[u8]) -> Staging {
    let mut staging = sim.stage(unlimited().reserve(Lifetime::Pass, bytes.len() as u64).unwrap()).unwrap();
    staging.host_mut().copy_from_slice(bytes);
    staging
}

/// Copies all of the staging to the region's beginning.
pub fn upload(sim: &Sim, from: &Staging, to: Region) -> (Region, Ticket) {
    let mut part = to.into_parts(&[]).unwrap().remove(0);
    let ticket = sim.upload(from, 0..from.bytes(), &mut part, 0).unwrap();
    part.issued(ticket);
    (part.finish().unwrap(), ticket)
}

pub fn raw(region: &Region) -> TensorMeta {
    TensorMeta::new(DType::U8, [region.bytes() as usize]).unwrap()
}

/// A kernel that copies one region to another of the same size.
pub fn copy(sim: &Sim, from: &Region, to: &mut Region) {
    let cost = Cost::Exactly(Duration::from_nanos(1000));
    let (from, meta) = (View::new(from, 0, raw(from)).unwrap(), raw(to));
    let to = ViewMut::new(to, 0, meta).unwrap();
    sim.launch("copy", cost, &[from], &mut [to], |from, to| to[0].copy_from_slice(&from[0])).unwrap();
}

pub fn download(sim: &Sim, from: &Region) -> Vec<u8> {
    let mut bytes = vec![0; from.bytes() as usize];
    sim.download(from, 0, &mut bytes).unwrap();
    bytes
}
