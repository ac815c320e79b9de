//! Every operation on random shapes.

use vram_types::DType;

use super::case::{Case, Failure, Fault, Outcome, guarded};
use super::suite::{ACTS, WEIGHTS};
use super::suites::SUITES;
use super::tensors::Random;
use crate::Kernels;

const NAME: &str = "random shapes";

pub(super) const CASES: &[Case] = &[Case::new(NAME, check)];

fn check(device: &dyn Kernels) -> Result<(), Fault> {
    (0..2).try_for_each(|seed| shapes(device, &Draw { seed, ..Draw::default() }))
}

/// What [`random_shapes`] draws from.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Equal seeds give equal shapes and values.
    pub seed: u64,
    /// Compute dtypes.
    pub acts: Vec<DType>,
    /// Storage dtypes.
    pub weights: Vec<DType>,
}

impl Default for Draw {
    /// The dtypes that every backend supports.
    fn default() -> Draw {
        Draw { seed: 0, acts: ACTS.into(), weights: WEIGHTS.into() }
    }
}

/// Runs each operation once for each pair of dtypes, on a shape and values that follow from the seed. Run it
/// for as many seeds as time permits. Optional operations that the device refuses are skipped.
///
/// # Errors
/// [`Failure`] with the seed, the operation and its shape.
///
/// ```
/// use vram_device::conformance::{Draw, random_shapes};
/// let cpu = vram_device::cpu::Cpu::new(Default::default())?;
/// random_shapes(&cpu, &Draw { seed: 7, ..Draw::default() })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn random_shapes(device: &dyn Kernels, draw: &Draw) -> Result<(), Failure> {
    guarded(NAME, || shapes(device, draw))
}

fn shapes(device: &dyn Kernels, draw: &Draw) -> Result<(), Fault> {
    let random = &mut Random::new(1000 + draw.seed);
    each(device, random, draw).map_err(|fault| Fault::Wrong(format!("seed {}: {fault}", draw.seed)))
}

fn each(device: &dyn Kernels, random: &mut Random, draw: &Draw) -> Result<(), Fault> {
    for &act in &draw.acts {
        for suite in SUITES {
            for variant in suite.variants {
                let result = variant.draw(device, random, act, &draw.weights);
                Outcome::of(result, suite.optional(variant))?;
            }
        }
    }
    Ok(())
}
