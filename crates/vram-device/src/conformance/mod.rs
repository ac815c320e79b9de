//! The suite that every backend passes. It needs no test framework: [`run`] runs all of it, and [`cases`]
//! lists the cases for a harness that reports them one by one.
//!
//! Kernels run on odd and on random sizes, into poisoned memory. Their results are compared with sums in f64,
//! and with themselves, bit for bit, where the contract of [`Kernels`] says that the budget must not matter:
//! split rows, single rows, weights at odd addresses.
//!
//! Some operations, and some variants of operations, are optional: a backend may answer
//! [`Unsupported`](crate::DeviceError::Unsupported) with the operation's name. That is a [gap](Outcome::Gap),
//! not a failure. [`support`] lists what a device supports.
//!
//! ```
//! use vram_device::{conformance, cpu::Cpu};
//! let summary = conformance::run(&Cpu::new(Default::default())?)?;
//! assert_eq!(summary.passed.len(), conformance::cases().len());
//! assert!(summary.gaps.is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod attention;
mod binary;
mod case;
mod cast;
mod custom;
mod gated;
mod gather;
mod group_norm;
mod im2col;
mod layer_norm;
mod linear;
mod memory;
mod modulate;
mod random;
mod rms_norm;
mod rotary;
mod rows;
mod scaled_add;
mod strided_copy;
mod suite;
mod suites;
mod support;
mod tensors;
mod top_k;
mod unary;
mod upsample;

pub use case::{Case, Failure, Outcome};
pub use random::{Draw, random_shapes};
pub use support::{Support, support};

use crate::Kernels;

use suites::SUITES;

/// A device that passed.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Backend and name of the device.
    pub device: String,
    /// Names of the cases.
    pub passed: Vec<&'static str>,
    /// Optional cases that the device does not support, and why.
    pub gaps: Vec<(&'static str, String)>,
}

/// All cases. Memory comes first, because the later cases rely on it.
pub fn cases() -> Vec<Case> {
    let operations = SUITES.iter().flat_map(|suite| suite.cases());
    let refusals = SUITES.iter().map(|suite| suite.refusals);
    let (memory, random) = (memory::CASES.iter().copied(), random::CASES.iter().copied());
    memory.chain(operations).chain(random).chain(refusals).collect()
}

/// Runs all cases on a device, and stops at the first failure.
///
/// # Errors
/// [`Failure`].
pub fn run(device: &dyn Kernels) -> Result<Summary, Failure> {
    let (mut passed, mut gaps) = (Vec::new(), Vec::new());
    for case in cases() {
        match case.run(device)? {
            Outcome::Passed => passed.push(case.name()),
            Outcome::Gap(why) => gaps.push((case.name(), why)),
        }
    }
    let info = device.info();
    Ok(Summary { device: format!("{}: {}", info.backend, info.name), passed, gaps })
}
