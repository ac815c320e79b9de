//! Random engines and models on a simulated device.

use std::sync::{Arc, LazyLock, Once};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use vram_device::cpu::{Cpu, CpuOptions};
use vram_device::sim::{Cost, Lateness, Sim, SimOptions, SimProfile, SimSource, SimTopology};
use vram_device::{Budget, Device, Kernels, Lifetime, Queue, Region, Tier, View, ViewMut};
use vram_layers::{Engine, Error, LayerId, ModuleMap, Pass, PassRequest, Split, Uncovered, VramConfig};
use vram_layers::{Managed, enable_vram_management};
use vram_types::{DType, TensorMeta, WeightSource};

use crate::chain::{Block, Chain, ModelCase, any_model};
use crate::common::{Random, Raw, options};
use crate::source::{Layout, MemorySource};

static CPU: LazyLock<Arc<Cpu>> =
    LazyLock::new(|| Arc::new(Cpu::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap()));

/// A device of 4 MiB, late in one way or another.
pub fn any_sim(random: &mut Random) -> Sim {
    let lateness = match random.below(4) {
        0 => Lateness::Nothing,
        1 => Lateness::Copies,
        2 => Lateness::Kernels,
        _ => Lateness::Seeded(random.next()),
    };
    let topology = match random.below(4) {
        0 => SimTopology::OneQueue,
        _ => SimTopology::SeparateCopyQueue,
    };
    sim(topology, lateness)
}

fn sim(topology: SimTopology, lateness: Lateness) -> Sim {
    let profile = SimProfile { memory_bytes: 4 << 20, ..SimProfile::default() };
    Sim::over(Arc::clone(&CPU), SimOptions { profile, topology, lateness, ..SimOptions::default() }).unwrap()
}

/// Such a device with a copy queue of its own.
pub fn late(lateness: Lateness) -> Sim {
    sim(SimTopology::SeparateCopyQueue, lateness)
}

pub fn any_layout(random: &mut Random) -> Layout {
    let gaps = [vec![0], vec![0, 3, 64], vec![1, 700, 5000]];
    Layout {
        alignment: [1, 1, 512][random.below(3)],
        mapped: false,
        gaps: gaps[random.below(3)].clone(),
        files: 1 + random.below(2),
        indirect: [0, 0, 2, 8][random.below(4)],
    }
}

/// The simulated panic is expected, and need not fill the log.
pub fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>().is_none_or(|s| !s.ends_with("simulated panic")) {
                usual(info);
            }
        }));
    });
}

/// A number that the environment sets.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap())
}

/// Runs a case and prints its seed if it unwinds.
pub fn name_on_panic(seed: u64, run: impl FnOnce(u64)) {
    struct Name(u64);
    impl Drop for Name {
        fn drop(&mut self) {
            if std::thread::panicking() {
                println!("failed: VRAM_SEED={} VRAM_CASES=1", self.0);
            }
        }
    }
    let _name = Name(seed);
    run(seed);
}

/// What is used of a device and under which budgets, to see whether anything is left.
pub struct Held {
    pub sim: Arc<Sim>,
    pub budget: Budget,
    pub host: Budget,
}

impl Held {
    /// Nothing is held and nothing was done wrong, after everything else has been dropped.
    pub fn check_empty(&self) {
        self.sim.run_all();
        assert!(self.sim.usage().is_empty(), "{:?}", self.sim.usage());
        assert_eq!((self.budget.used(), self.host.used()), (0, 0));
        self.check_order();
    }

    /// Nothing is on the device or in staging that is not in a budget, where nobody but the engine holds anything and
    /// none of its readers gives anything back. So many bytes on the device are the caller's own.
    pub fn check_ledger(&self, own: u64) {
        let mut held = self.sim.usage();
        held.bytes -= own;
        let (device, host) = (self.budget.used(), self.host.used());
        assert!(held.bytes <= device, "{} bytes on the device, {device} in the budget", held.bytes);
        assert!(held.staging_bytes <= host, "{} bytes staged, {host} in the budget", held.staging_bytes);
    }

    pub fn check_order(&self) {
        let violations = self.sim.violations();
        assert!(violations.is_empty(), "{}, and {} in all", violations[0], violations.len());
    }
}

/// An engine over random layers of bytes.
pub struct Rig {
    pub raw: Raw,
    pub engine: Engine,
    pub source: Arc<SimSource>,
    pub held: Arc<Held>,
    pub workspace: u64,
}

impl Rig {
    /// The smallest budget that works, and up to as much as everything needs more.
    pub fn any(random: &mut Random, setup: impl FnOnce(&Sim, &SimSource)) -> Result<Rig, Error> {
        let splits = [Split::Whole, Split::Rows, Split::Rows, Split::Gather];
        let layers: Vec<_> = (0..1 + random.below(8))
            .map(|i| {
                (1 + random.below(60), 1 + random.below(90), splits[random.below(if i == 0 { 3 } else { 4 })])
            })
            .collect();
        let layout = any_layout(random);
        let raw = Raw::new(&layers, &layout, random.next());
        let sim = Arc::new(any_sim(random));
        let from: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(&raw.source);
        let source = Arc::new(SimSource::new(from));
        setup(&sim, &source);
        let ring = (random.below(2) == 0).then(|| random.below(20_000) as u64);
        let mut options = options(u64::MAX, ring, 1 + random.below(3));
        options.residents = random.below(4) > 0;
        options.host_weights = random.below(2) == 0;
        // The least of them has staging for 300 bytes, or for a sector.
        let least = 2 * options.readers as u64 * (2 * layout.alignment + layout.alignment.max(300));
        options.host_budget = Budget::new(Tier::Host, [least, 40_000, 1 << 20][random.below(3)]);
        // Passes that are measured wait for every copy.
        options.calibrate = random.below(4) == 0;
        let held =
            Held { sim: Arc::clone(&sim), budget: options.budget.clone(), host: options.host_budget.clone() };
        let device: Arc<dyn Device> = sim;
        let through: Arc<dyn WeightSource> = Arc::<SimSource>::clone(&source);
        let engine = Engine::new(through, device, raw.specs(), options)?;
        let leased = (0..layers.len()).filter(|&i| raw.split[i] != Split::Gather);
        let trace: Vec<LayerId> = leased.map(LayerId).collect();
        let workspace = random.below(3) as u64 * 4096 + 10_000;
        let smallest = engine.minimum_budget(workspace, &trace)?;
        let all: usize = raw.layers.iter().map(Vec::len).sum();
        let more = random.below(all + 8192) * random.below(3) / 2;
        held.budget.set_limit(smallest + more as u64);
        Ok(Rig { raw, engine, source, held: Arc::new(held), workspace })
    }

    pub fn begin(&self) -> Result<Pass<'_>, Error> {
        self.engine.begin(PassRequest { workspace: self.workspace, ..PassRequest::default() })
    }

    /// One whole pass with the right answer, or its error. Nothing waits for the device before the end.
    pub fn pass(&self, random: &mut Random) -> Result<(), Error> {
        let mut pass = self.begin()?;
        let mut outputs = Outputs::new(&self.held.sim, self.raw.layers.iter().map(Vec::len).sum())?;
        for layer in 0..self.raw.layers.len() {
            if self.raw.split[layer] == Split::Gather {
                self.gather(&mut pass, layer, random, &mut outputs)?;
            } else {
                self.read(&mut pass, layer, &mut outputs)?;
            }
        }
        outputs.check(&self.held.sim)?;
        pass.finish().map(drop)
    }

    /// Copies all tiles of a layer to the outputs, by way of an activation.
    pub fn read(&self, pass: &mut Pass<'_>, layer: usize, outputs: &mut Outputs) -> Result<(), Error> {
        let mut at = 0;
        for tile in 0..pass.tiles(LayerId(layer)) {
            let lease = pass.lease(LayerId(layer), tile)?;
            let weights = lease.tensor(0)?;
            let end = at + weights.meta().bytes() as usize;
            let mut activation = pass.alloc(weights.meta().bytes())?;
            let meta = weights.meta().clone();
            copy(&self.held.sim, &weights, ViewMut::new(&mut activation, 0, meta.clone())?)?;
            lease.finish(self.held.sim.ticket(Queue::Compute)?);
            let activation = View::new(&activation, 0, meta)?;
            outputs.take(&self.held.sim, &activation, &self.raw.layers[layer][at..end])?;
            at = end;
        }
        assert_eq!(at, self.raw.layers[layer].len(), "the tiles of layer {layer}");
        Ok(())
    }

    /// Copies up to 20 rows of a table, and at most 2000 bytes, to the outputs.
    pub fn gather(
        &self,
        pass: &mut Pass<'_>,
        layer: usize,
        random: &mut Random,
        outputs: &mut Outputs,
    ) -> Result<(), Error> {
        let meta = self.raw.source.locate(&format!("layer.{layer}")).unwrap().meta;
        let (rows, width) = (meta.shape()[0], meta.shape()[1]);
        let count = 1 + random.below(rows.min(20));
        let ids: Vec<u32> = (0..count).map(|_| random.below(rows) as u32).collect();
        let row = |id: &u32| &self.raw.layers[layer][*id as usize * width..][..width];
        let expected: Vec<u8> = ids.iter().flat_map(row).copied().collect();
        let region = pass.gather(LayerId(layer), 0, &ids)?;
        let rows = View::new(&region, 0, TensorMeta::new(DType::U8, [expected.len()])?)?;
        outputs.take(&self.held.sim, &rows, &expected[..expected.len().min(outputs.room())])
    }
}

/// A kernel that copies as many bytes as it has room for.
fn copy(sim: &Sim, from: &View<'_>, to: ViewMut<'_>) -> Result<(), Error> {
    let cost = Cost::Flops(to.meta().bytes() as f64);
    Ok(sim.launch("read", cost, std::slice::from_ref(from), &mut [to], |from, to| {
        let len = to[0].len();
        to[0].copy_from_slice(&from[0][..len]);
    })?)
}

/// What kernels copied out of leased weights, on the device and not yet looked at.
pub struct Outputs {
    region: Region,
    expected: Vec<u8>,
}

impl Outputs {
    pub fn new(sim: &Sim, bytes: usize) -> Result<Outputs, Error> {
        let unlimited = Budget::new(Tier::Device, u64::MAX);
        let room = unlimited.reserve(Lifetime::Session, bytes as u64).unwrap();
        Ok(Outputs { region: sim.allocate(room)?.into_region(), expected: Vec::new() })
    }

    fn room(&self) -> usize {
        self.region.bytes() as usize - self.expected.len()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        self.region.bytes()
    }

    /// Issues a kernel that copies as many bytes as are expected.
    pub fn take(&mut self, sim: &Sim, from: &View<'_>, expected: &[u8]) -> Result<(), Error> {
        let meta = TensorMeta::new(DType::U8, [expected.len()])?;
        let to = ViewMut::new(&mut self.region, self.expected.len() as u64, meta)?;
        copy(sim, from, to)?;
        self.expected.extend_from_slice(expected);
        Ok(())
    }

    /// Compares what the kernels found with what they should have found.
    pub fn check(&self, sim: &Sim) -> Result<(), Error> {
        let mut bytes = vec![0; self.expected.len()];
        sim.download(&self.region, 0, &mut bytes)?;
        let wrong = bytes.iter().zip(&self.expected).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "the first wrong byte of {}", bytes.len());
        Ok(())
    }
}

/// A model of layers, as the checkpoint has it.
pub fn any_case(seed: u64) -> ModelCase {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    any_model().new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).unwrap().current()
}

/// The right answer: everything resident on the processor.
pub fn expected(case: &ModelCase, source: Arc<MemorySource>) -> Vec<u8> {
    let map = ModuleMap::standard().uncovered(Uncovered::Layer);
    let config = VramConfig::disk(case.compute, Budget::new(Tier::Device, u64::MAX));
    let cpu: Arc<Cpu> = Arc::clone(&CPU);
    let model = enable_vram_management(Chain::build(case), source, cpu, &map, config).unwrap();
    model.run(|m, fwd| m.forward(fwd, case)).unwrap()
}

/// A managed model on a simulated device.
pub struct Model {
    pub case: ModelCase,
    pub managed: Managed<Chain>,
    pub source: Arc<MemorySource>,
    pub held: Arc<Held>,
}

impl Model {
    pub fn any(random: &mut Random, setup: impl FnOnce(&Sim, &SimSource)) -> Result<Model, Error> {
        let case = any_case(random.next());
        let sim = Arc::new(any_sim(random));
        // What the weights are depends on the layout as well.
        let weights = case.source(&any_layout(random));
        let from: Arc<dyn WeightSource> = Arc::<MemorySource>::clone(&weights);
        let source = Arc::new(SimSource::new(from));
        setup(&sim, &source);
        let (budget, host) = (Budget::new(Tier::Device, u64::MAX), Budget::new(Tier::Host, 8 << 20));
        let map = ModuleMap::standard().uncovered(Uncovered::Layer);
        let map = if random.below(2) == 0 { map.wrap::<Block>() } else { map };
        let mut config = VramConfig::disk(case.compute, budget.clone());
        config.host_limit = host.clone();
        config.readers = 1 + random.below(3);
        config.ring = (random.below(2) == 0).then(|| random.below(60_000) as u64);
        let device: Arc<dyn Kernels> = Arc::<Sim>::clone(&sim);
        let managed = enable_vram_management(Chain::build(&case), source, device, &map, config)?;
        let smallest = managed.minimum_budget(|m, fwd| m.forward(fwd, &case))?;
        budget.set_limit(smallest + random.below(40_000) as u64 * random.below(3) as u64 / 2);
        Ok(Model { case, managed, source: weights, held: Arc::new(Held { sim, budget, host }) })
    }

    pub fn pass(&self) -> Result<Vec<u8>, Error> {
        self.managed.run(|m, fwd| m.forward(fwd, &self.case))
    }
}
