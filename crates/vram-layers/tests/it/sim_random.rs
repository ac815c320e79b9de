//! Random calls in random order on a late device, beside an engine so simple that it cannot be wrong: all weights in a
//! list, and a flag that says whether the model is put away.

use std::sync::Arc;

use vram_device::sim::Cost;
use vram_device::{Device, Queue, Region, ViewMut};
use vram_layers::{Error, LayerId, Lease, Pass, PassRequest, Session, Split};
use vram_types::{CancelToken, DType, TensorMeta};

use crate::common::{Random, in_time};
use crate::sim_common::{Held, Outputs, Rig, name_on_panic, number};

/// A lease that is still open: its layer, and where its tile's bytes are in the layer.
struct Open {
    lease: Lease,
    layer: usize,
    from: usize,
}

struct Run {
    rig: Arc<Rig>,
    random: Random,
    /// The naive engine: the rest of it is `rig.raw.layers`.
    active: bool,
    /// Leases that outlived their pass, and hold memory that plans do not know of.
    late: Vec<Open>,
    /// What was read from such leases and is looked at later.
    unseen: Vec<Outputs>,
    sessions: Vec<Filled>,
}

/// Memory that outlives passes, and what a kernel wrote there.
struct Filled {
    region: Region,
    bytes: Vec<u8>,
    _session: Session,
}

/// What happened in one pass that makes some errors right.
struct Within {
    open: Vec<Open>,
    /// The ring holds what leases of earlier passes hold, or dropped ones of this pass held.
    crowded: bool,
    cancelled: bool,
}

impl Within {
    fn allows(&self, error: &Error) -> bool {
        match error {
            Error::Cancelled => self.cancelled,
            // Whoever holds leases, or dropped some, may find no room in the ring for another.
            Error::Unsupported(_) => self.crowded || !self.open.is_empty(),
            _ => false,
        }
    }
}

impl Run {
    fn step(&mut self) {
        match self.random.below(12) {
            0 => {
                self.rig.engine.offload().unwrap();
                self.active = false;
            }
            1 => {
                self.rig.engine.onload().unwrap();
                self.active = true;
            }
            2 => self.read_late(),
            3 if self.late.is_empty() => self.change_budget(),
            4 => self.take_session(),
            5 if !self.sessions.is_empty() => {
                let which = self.random.below(self.sessions.len());
                drop(self.sessions.swap_remove(which));
            }
            _ => self.pass(),
        }
        self.rig.held.check_ledger(self.unseen.iter().map(Outputs::bytes).sum());
    }

    fn change_budget(&mut self) {
        let all: Vec<LayerId> = self.leasable().into_iter().map(LayerId).collect();
        let smallest = self.rig.engine.minimum_budget(self.rig.workspace, &all).unwrap();
        let limit = smallest + self.random.below(30_000) as u64;
        self.rig.engine.set_limit(vram_layers::VramLimit::Bytes(limit)).unwrap();
        assert!(self.rig.held.budget.used() <= limit);
    }

    fn take_session(&mut self) {
        let bytes = 1 + self.random.below(6000) as u64;
        let session = match self.rig.engine.session(bytes) {
            Ok(session) => session,
            Err(Error::BudgetTooSmall { needed, given, .. }) => return assert!(needed > given),
            Err(e) if e.is_oom() && !self.late.is_empty() => return,
            Err(e) => panic!("{e:?}"),
        };
        let bytes = self.random.bytes(bytes as usize);
        let mut region = session.alloc(bytes.len() as u64).unwrap();
        let meta = TensorMeta::new(DType::U8, [bytes.len()]).unwrap();
        let to = ViewMut::new(&mut region, 0, meta).unwrap();
        let cost = Cost::Flops(bytes.len() as f64);
        let (sim, what) = (&self.rig.held.sim, bytes.clone());
        sim.launch("write", cost, &[], &mut [to], move |_, to| to[0].copy_from_slice(&what)).unwrap();
        self.sessions.push(Filled { region, bytes, _session: session });
    }

    /// What was written to sessions is still there.
    fn check_sessions(&self) {
        for filled in &self.sessions {
            let mut bytes = vec![0; filled.bytes.len()];
            self.rig.held.sim.download(&filled.region, 0, &mut bytes).unwrap();
            assert!(bytes == filled.bytes, "the bytes of a session have changed");
        }
    }

    fn leasable(&self) -> Vec<usize> {
        (0..self.rig.raw.split.len()).filter(|&i| self.rig.raw.split[i] != Split::Gather).collect()
    }

    /// A lease that outlived its pass has its weights still, and ends in one way or the other.
    fn read_late(&mut self) {
        let sim = Arc::clone(&self.rig.held.sim);
        for open in std::mem::take(&mut self.late) {
            let mut outputs = Outputs::new(&sim, 10_000).unwrap();
            take(&self.rig, &open, &mut outputs).unwrap();
            if self.random.below(2) == 0 {
                open.lease.finish(sim.ticket(Queue::Compute).unwrap());
            }
            self.unseen.push(outputs);
        }
    }

    fn look(&mut self) {
        for outputs in self.unseen.drain(..) {
            outputs.check(&self.rig.held.sim).unwrap();
        }
    }

    fn request(&mut self, cancel: &CancelToken) -> PassRequest {
        let mut order = self.leasable();
        for i in (1..order.len()).rev() {
            order.swap(i, self.random.below(i + 1));
        }
        let trace = (self.random.below(4) == 0).then(|| order.into_iter().map(LayerId).collect());
        let last = self.random.below(4) == 0;
        // Another workspace is another plan.
        let workspace = self.rig.workspace - self.random.below(4).saturating_sub(2) as u64 * 512;
        PassRequest { workspace, trace, last, cancel: cancel.clone() }
    }

    fn pass(&mut self) {
        let cancel = CancelToken::new();
        let request = self.request(&cancel);
        let rig = Arc::clone(&self.rig);
        let begun = rig.engine.begin(request.clone());
        let mut pass = match begun {
            Ok(_) if !self.active => panic!("a pass of a model that is put away"),
            Ok(pass) => pass,
            Err(Error::Offloaded) if !self.active => return,
            Err(e) if e.is_oom() && !self.late.is_empty() => return self.late.clear(),
            // Sessions may be taken that leave no room for the passes to come.
            Err(Error::BudgetTooSmall { needed, given, session: 1.., .. }) if needed > given => {
                return self.sessions.clear();
            }
            Err(e) => panic!("{e:?}"),
        };
        let mut outputs = Outputs::new(&self.rig.held.sim, 200_000).unwrap();
        let mut within = Within { open: Vec::new(), crowded: !self.late.is_empty(), cancelled: false };
        let layers = self.rig.raw.layers.len();
        let mut next = 0;
        for _ in 0..self.random.below(14) {
            let layer = if self.random.below(5) == 0 { self.random.below(layers) } else { next % layers };
            next = layer + 1;
            if self.random.below(6) == 0 {
                // While other units are leased under another plan.
                self.read_late();
            }
            let done = act(&rig, &mut self.random, &mut pass, layer, &mut within, &mut outputs);
            if let Err(e) = done {
                assert!(within.allows(&e), "{e:?}");
            }
            if self.random.below(30) == 0 {
                cancel.cancel();
                within.cancelled = true;
            }
        }
        assert!(matches!(rig.engine.begin(request), Err(Error::Busy)));
        match self.random.below(3) {
            0 => drop(pass),
            _ => {
                let issued = self.rig.held.sim.ticket(Queue::Compute).unwrap();
                drop(pass.finish().unwrap());
                assert!(self.rig.held.sim.is_done(issued).unwrap(), "a finished pass is not over");
            }
        }
        self.unseen.push(outputs);
        if self.random.below(2) == 0 {
            self.look();
        }
        self.late.append(&mut within.open);
    }
}

/// One thing that a pass can do with a layer.
fn act(
    rig: &Rig,
    random: &mut Random,
    pass: &mut Pass<'_>,
    layer: usize,
    within: &mut Within,
    outputs: &mut Outputs,
) -> Result<(), Error> {
    if rig.raw.split[layer] == Split::Gather {
        return rig.gather(pass, layer, random, outputs);
    }
    match random.below(8) {
        0 => {
            let lease = pass.lease(LayerId(layer), 0)?;
            let open = Open { lease, layer, from: 0 };
            take(rig, &open, outputs)?;
            within.open.push(open);
            Ok(())
        }
        1 if !within.open.is_empty() => {
            let open = within.open.swap_remove(random.below(within.open.len()));
            take(rig, &open, outputs)?;
            if random.below(3) == 0 {
                within.crowded = true;
            } else {
                open.lease.finish(pass.device().ticket(Queue::Compute)?);
            }
            Ok(())
        }
        _ => rig.read(pass, layer, outputs),
    }
}

fn take(rig: &Rig, open: &Open, outputs: &mut Outputs) -> Result<(), Error> {
    let weights = open.lease.tensor(0)?;
    let expected = &rig.raw.layers[open.layer][open.from..][..weights.meta().bytes() as usize];
    outputs.take(&rig.held.sim, &weights, expected)
}

/// Calls of one seed, and what is left when everything is dropped.
pub fn run(seed: u64) {
    let mut random = Random::new(seed);
    let rig = Rig::any(&mut random, |_, _| {}).unwrap();
    let held: Arc<Held> = Arc::clone(&rig.held);
    let (late, unseen, sessions) = (Vec::new(), Vec::new(), Vec::new());
    let mut run = Run { rig: Arc::new(rig), random, active: true, late, unseen, sessions };
    for _ in 0..10 {
        run.step();
    }
    if run.random.below(2) == 0 {
        run.late.clear();
    }
    run.look();
    run.check_sessions();
    let Run { rig, late, sessions, .. } = run;
    drop(rig);
    drop((late, sessions));
    held.check_empty();
}

#[test]
fn random_calls_agree_with_a_naive_engine() {
    let (seed, cases) = (number("VRAM_SEED", 1), number("VRAM_CASES", 1000));
    println!("VRAM_SEED={seed} VRAM_CASES={cases}");
    for seed in seed..seed + cases {
        in_time(&format!("VRAM_SEED={seed} VRAM_CASES=1"), move || name_on_panic(seed, run));
    }
}
