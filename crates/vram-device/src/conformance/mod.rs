//! The suite that every backend passes. It needs no test framework: [`run`] does all of it, [`cases`] names what there
//! is, for a harness that reports one by one.
//!
//! Kernels are compared with sums in f64 on odd sizes and on random ones, into memory that was poisoned first; and with themselves, bit
//! for bit, where the contract of [`Kernels`] says that the budget must not matter: rows split, rows alone, weights at
//! odd addresses.
//!
//! ```
//! use vram_device::{conformance, cpu::Cpu};
//! let summary = conformance::run(&Cpu::new(Default::default())?)?;
//! assert_eq!(summary.passed.len(), conformance::cases().len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compute;
mod memory;
mod random;
mod refusals;
mod tensors;

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use random::{Draw, random_shapes};

use crate::Kernels;

/// One thing that a backend has to get right.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    check: fn(&dyn Kernels) -> Result<(), Fault>,
}

impl Case {
    /// What it is about.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Checks a device.
    ///
    /// # Errors
    /// [`Failure`] with what was expected and what came; a panic of the backend is one as well.
    pub fn run(&self, device: &dyn Kernels) -> Result<(), Failure> {
        guarded(self.name, || (self.check)(device))
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

/// A device that passed.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Backend and name of the device.
    pub device: String,
    /// Names of the cases.
    pub passed: Vec<&'static str>,
}

/// A case that a device failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Name of the case.
    pub case: &'static str,
    /// What was expected and what came.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.message)
    }
}

impl Error for Failure {}

/// All cases, memory first: what comes later relies on it.
pub fn cases() -> Vec<Case> {
    [memory::CASES, compute::CASES, random::CASES, refusals::CASES].concat()
}

/// Checks a device by all cases, and stops at the first that it fails.
///
/// # Errors
/// [`Failure`].
pub fn run(device: &dyn Kernels) -> Result<Summary, Failure> {
    let mut passed = Vec::new();
    for case in cases() {
        case.run(device)?;
        passed.push(case.name);
    }
    let info = device.info();
    Ok(Summary { device: format!("{}: {}", info.backend, info.name), passed })
}

/// Makes a failure of a panic.
fn guarded(case: &'static str, check: impl FnOnce() -> Result<(), Fault>) -> Result<(), Failure> {
    let fail = |message| Failure { case, message };
    match catch_unwind(AssertUnwindSafe(check)) {
        Ok(result) => result.map_err(|fault| fail(fault.0)),
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(fail(format!("the backend panicked: {text}")))
        }
    }
}

/// Why a case failed, as text.
struct Fault(String);

impl<E: Error> From<E> for Fault {
    fn from(e: E) -> Fault {
        Fault(format!("an error where none was due: {e}"))
    }
}

fn ensure(ok: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if ok { Ok(()) } else { Err(Fault(what())) }
}
