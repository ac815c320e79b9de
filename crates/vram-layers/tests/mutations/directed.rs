//! What random calls reach too seldom, step by step.

use std::sync::{Arc, Condvar, Mutex};

use vram_device::sim::Lateness;
use vram_device::{Budget, Device, Queue, Tier};
use vram_layers::{Engine, LayerId, Lease, PassRequest, Split};
use vram_types::{ReadOptions, ReadRequest, SourceError, SourceErrorKind, WeightSource};

use crate::common::{Raw, options};
use crate::sim_bugs::rig;
use crate::sim_common::{Outputs, Rig, late};
use crate::source::{Before, Layout};

fn read(rig: &Rig, lease: &Lease, layer: usize, outputs: &mut Outputs) {
    outputs.take(&rig.held.sim, &lease.tensor(0).unwrap(), &rig.raw.layers[layer]).unwrap();
}

/// A lease outlives its pass, is read from and dropped; its slot is the only one, and the next pass needs it.
pub fn late_lease(_seed: u64) {
    let rig = rig(Raw::plain(1), Lateness::Kernels, 4000 + 1000, |options| options.residents = false);
    let mut outputs = Outputs::new(&rig.held.sim, 8000).unwrap();
    // The same plan for both.
    let trace = Some(vec![LayerId(0), LayerId(1)]);
    let request = PassRequest { workspace: 4000, trace, ..PassRequest::default() };
    let mut pass = rig.engine.begin(request.clone()).unwrap();
    let lease = pass.lease(LayerId(0), 0).unwrap();
    pass.finish().unwrap();
    read(&rig, &lease, 0, &mut outputs);
    drop(lease);
    let mut pass = rig.engine.begin(request).unwrap();
    rig.read(&mut pass, 0, &mut outputs).unwrap();
    pass.finish().unwrap();
    outputs.check(&rig.held.sim).unwrap();
    rig.held.check_order();
}

/// A lease of one plan ends while the unit of its number is under lease in another plan, whose ring has one slot.
pub fn lease_of_another_plan(_seed: u64) {
    let rig = rig(Raw::plain(1), Lateness::Kernels, 4000 + 4096, |options| {
        (options.residents, options.ring) = (false, Some(1000));
    });
    let mut outputs = Outputs::new(&rig.held.sim, 16_000).unwrap();
    let mut pass = rig.begin().unwrap();
    let old = pass.lease(LayerId(0), 0).unwrap();
    pass.finish().unwrap();
    rig.engine.offload().unwrap();
    rig.engine.onload().unwrap();
    let mut pass = rig.begin().unwrap();
    let lease = pass.lease(LayerId(0), 0).unwrap();
    read(&rig, &old, 0, &mut outputs);
    old.finish(rig.held.sim.ticket(Queue::Compute).unwrap());
    read(&rig, &lease, 0, &mut outputs);
    lease.finish(rig.held.sim.ticket(Queue::Compute).unwrap());
    for layer in 1..4 {
        rig.read(&mut pass, layer, &mut outputs).unwrap();
    }
    outputs.check(&rig.held.sim).unwrap();
    pass.finish().unwrap();
    rig.held.check_order();
}

/// A model is put away while a reader reads for it: nothing of it is held when that has been done.
pub fn put_away_while_it_reads(_seed: u64) {
    let raw = Raw::plain(1);
    let sim = Arc::new(late(Lateness::Nothing));
    let mut options = options(20_000, Some(5000), 1);
    (options.calibrate, options.residents) = (false, false);
    let budget = options.budget.clone();
    // The second read ends some time after it was cancelled, and not before.
    let (source, begun) = scripted(&raw, |_, read, options| {
        if read == 2 {
            while options.check().is_ok() {
                std::thread::yield_now();
            }
            linger();
        }
        Ok(())
    });
    let engine = Engine::new(source, sim, raw.specs(), options).unwrap();
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    drop(pass.lease(LayerId(0), 0).unwrap());
    begun.wait_for(2);
    drop(pass);
    engine.offload().unwrap();
    assert_eq!(budget.used(), 0, "held by a model that is put away");
}

/// The first piece of a resident fails while the second is being read; there is room for it only once.
pub fn memory_of_a_failed_attempt(_seed: u64) {
    let raw = Raw::new(&[(10, 100, Split::Whole)], &Layout::plain(), 1);
    let mut options = options(1000, None, 2);
    options.calibrate = false;
    options.host_budget = Budget::new(Tier::Host, 2008);
    // The first read fails when the second has begun, which takes its time.
    let (source, _) = scripted(&raw, |begun, read, _| match read {
        1 => {
            begun.wait_for(2);
            fails()
        }
        2 => {
            linger();
            Ok(())
        }
        _ => Ok(()),
    });
    let engine = Engine::new(source, Arc::new(late(Lateness::Nothing)), raw.specs(), options).unwrap();
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    pass.lease(LayerId(0), 0).unwrap_err();
    drop(pass.lease(LayerId(0), 0).unwrap());
}

/// How many reads have begun.
#[derive(Default)]
struct Begun {
    reads: Mutex<u32>,
    more: Condvar,
}

impl Begun {
    /// Counts another; which it is, from 1.
    fn another(&self) -> u32 {
        let mut reads = self.reads.lock().unwrap();
        *reads += 1;
        self.more.notify_all();
        *reads
    }

    fn wait_for(&self, count: u32) {
        let mut reads = self.reads.lock().unwrap();
        while *reads < count {
            reads = self.more.wait(reads).unwrap();
        }
    }
}

/// A source whose reads do as the script has it: it is told the number of each.
fn scripted(
    raw: &Raw,
    script: impl Fn(&Begun, u32, &ReadOptions) -> Result<(), SourceError> + Send + Sync + 'static,
) -> (Arc<dyn WeightSource>, Arc<Begun>) {
    let begun = Arc::new(Begun::default());
    let reads = Arc::clone(&begun);
    let before =
        move |_: &mut [ReadRequest<'_>], options: &ReadOptions| script(&reads, reads.another(), options);
    (Arc::new(Before { inner: Arc::clone(&raw.source), before }), begun)
}

fn fails() -> Result<(), SourceError> {
    Err(SourceError::new(SourceErrorKind::Io, "as the script has it"))
}

fn linger() {
    (0..2000).for_each(|_| std::thread::yield_now());
}

/// The first piece of a resident fails while the second is being read; that read ends only when the next attempt has
/// begun, and before any of it has.
pub fn load_of_another_attempt(_seed: u64) {
    let raw = Raw::new(&[(10, 100, Split::Whole)], &Layout::plain(), 1);
    let sim = Arc::new(late(Lateness::Nothing));
    let mut options = options(20_000, None, 2);
    options.calibrate = false;
    // Staging for pieces of half of the layer.
    options.host_budget = Budget::new(Tier::Host, 2008);
    // The first read fails when the second has begun, the second ends when the third has begun, and the third when the
    // fourth has.
    let (source, _) = scripted(&raw, |begun, read, _| {
        if read < 4 {
            begun.wait_for(read + 1);
        }
        if read == 1 { fails() } else { Ok(()) }
    });
    let device: Arc<dyn Device> = Arc::<vram_device::sim::Sim>::clone(&sim);
    let engine = Engine::new(source, device, raw.specs(), options).unwrap();
    let mut outputs = Outputs::new(&sim, 1000).unwrap();
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    pass.lease(LayerId(0), 0).unwrap_err();
    let lease = pass.lease(LayerId(0), 0).unwrap();
    outputs.take(&sim, &lease.tensor(0).unwrap(), &raw.layers[0]).unwrap();
    lease.finish(sim.ticket(Queue::Compute).unwrap());
    outputs.check(&sim).unwrap();
}
