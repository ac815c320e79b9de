//! A thousand faults on a simulated device that is late: each ends in the right error or in the right answer, in time,
//! and nothing is left behind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use vram_device::DeviceError;
use vram_device::sim::{DiskFault, Fault, Sim, SimSource};
use vram_layers::Error;
use vram_types::SourceErrorKind;

use crate::common::{Random, in_time};
use crate::sim_common::{Held, Model, Rig, expected, name_on_panic, number, quiet};

/// What goes wrong, and at which allocation, upload, operation or read.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Nothing,
    Device(Fault),
    Disk(u64, DiskFault),
}

impl Plan {
    fn any(random: &mut Random) -> Plan {
        let mut at = |n: usize| 1 + random.below(n) as u64;
        let (allocation, upload, operation, read) = (at(14), at(60), at(150), at(60));
        match random.below(9) {
            0 => Plan::Nothing,
            1 | 2 => Plan::Device(Fault::OutOfMemory(allocation)),
            3 => Plan::Device(Fault::Upload(upload)),
            4 => Plan::Device(Fault::Lost(operation)),
            5 => Plan::Disk(read, DiskFault::Error { retryable: random.below(2) == 0 }),
            6 => Plan::Disk(read, DiskFault::Short),
            7 => Plan::Disk(read, DiskFault::Panic),
            _ => Plan::Disk(read, DiskFault::Slow(Duration::from_secs(1))),
        }
    }

    fn declare(self, sim: &Sim, source: &SimSource) {
        match self {
            Plan::Nothing => {}
            Plan::Device(fault) => sim.set_faults(vec![fault]),
            Plan::Disk(at, fault) => source.set_faults(vec![(at, fault)]),
        }
    }

    /// Whether nothing works after it.
    fn is_fatal(self) -> bool {
        matches!(self, Plan::Device(Fault::Lost(_)))
    }

    fn explains(self, error: &Error) -> bool {
        match (self, error) {
            (Plan::Device(Fault::OutOfMemory(_)), Error::Device(e)) => e.is_oom(),
            (Plan::Device(Fault::Upload(_)), Error::Device(e)) => matches!(**e, DeviceError::Failed { .. }),
            (Plan::Device(Fault::Lost(_)), Error::Device(e)) => matches!(**e, DeviceError::Lost { .. }),
            (Plan::Disk(_, DiskFault::Short), Error::Source(e)) => e.kind() == SourceErrorKind::Truncated,
            (Plan::Disk(_, DiskFault::Error { .. } | DiskFault::Panic), Error::Source(e)) => {
                e.kind() == SourceErrorKind::Io
            }
            _ => false,
        }
    }

    /// Five passes: the fault is told at most once and every other pass is right, or all fail from some pass on.
    fn passes(self, mut pass: impl FnMut() -> Result<(), Error>) {
        let results: Vec<_> = (0..5).map(|_| pass()).collect();
        let errors: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
        for error in &errors {
            assert!(self.explains(error), "{self:?}: {results:?}");
        }
        let right_after = results.iter().position(Result::is_err).map(|at| &results[at + 1..]);
        if self.is_fatal() {
            assert!(right_after.is_none_or(|after| after.iter().all(Result::is_err)), "{results:?}");
        } else {
            assert!(errors.len() <= 1, "{results:?}");
        }
    }
}

/// How many ended in an error.
static TOLD: Mutex<[u32; 2]> = Mutex::new([0; 2]);

fn note(result: &Result<(), Error>) {
    TOLD.lock().unwrap()[usize::from(result.is_err())] += 1;
}

pub fn raw_run(seed: u64) {
    let mut random = Random::new(seed);
    let plan = Plan::any(&mut random);
    let rig = match Rig::any(&mut random, |sim, source| plan.declare(sim, source)) {
        Ok(rig) => rig,
        Err(e) => return assert!(plan.explains(&e), "{e:?}"),
    };
    plan.passes(|| {
        let result = rig.pass(&mut random);
        note(&result);
        result
    });
    let held: Arc<Held> = Arc::clone(&rig.held);
    drop(rig);
    held.check_empty();
}

pub fn model_run(seed: u64) {
    let mut random = Random::new(seed);
    let plan = Plan::any(&mut random);
    let model = match Model::any(&mut random, |sim, source| plan.declare(sim, source)) {
        Ok(model) => model,
        Err(e) => return assert!(plan.explains(&e), "{e:?}"),
    };
    let right = expected(&model.case, Arc::clone(&model.source));
    plan.passes(|| {
        let result = model.pass().map(|output| assert!(output == right, "other bits"));
        note(&result);
        result
    });
    let held: Arc<Held> = Arc::clone(&model.held);
    drop(model);
    held.check_empty();
}

#[test]
fn a_thousand_faults_end_well() {
    quiet();
    let (seed, cases) = (number("VRAM_SEED", 1), number("VRAM_CASES", 1000));
    println!("VRAM_SEED={seed} VRAM_CASES={cases}");
    for seed in seed..seed + cases {
        let run = if seed % 2 == 0 { raw_run } else { model_run };
        in_time(&format!("VRAM_SEED={seed} VRAM_CASES=1"), move || name_on_panic(seed, run));
    }
    let [right, failed] = *TOLD.lock().unwrap();
    println!("{right} passes with the right answer, {failed} with the declared fault");
    assert!(cases < 100 || (right > failed && failed > cases as u32 / 8), "{right} {failed}");
}
