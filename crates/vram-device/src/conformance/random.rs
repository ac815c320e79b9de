//! Every kernel on shapes that nobody chose.

use vram_types::DType;

use super::compute::{
    ACTS, FUNCTIONS, OPERATIONS, WEIGHTS, activate_of, attention_of, binary_of, cast_of, gather_of,
    layer_norm_of, linear_of, rms_norm_of,
};
use super::tensors::Random;
use super::{Case, Failure, Fault, guarded};
use crate::Kernels;

const NAME: &str = "random shapes";

pub(super) const CASES: &[Case] = &[Case { name: NAME, check }];

fn check(device: &dyn Kernels) -> Result<(), Fault> {
    (0..2).try_for_each(|seed| shapes(device, &Draw { seed, ..Draw::default() }))
}

/// What [`random_shapes`] draws from.
#[derive(Clone, Debug)]
pub struct Draw {
    /// The same for the same shapes and values.
    pub seed: u64,
    /// Compute dtypes.
    pub acts: Vec<DType>,
    /// Storage dtypes.
    pub weights: Vec<DType>,
}

impl Default for Draw {
    /// The dtypes that every backend takes.
    fn default() -> Draw {
        Draw { seed: 0, acts: ACTS.into(), weights: WEIGHTS.into() }
    }
}

/// Each kernel once for each pair of dtypes, on a shape and values of the seed's: for as many seeds as there is time.
///
/// # Errors
/// [`Failure`] with the seed, the kernel and its shape.
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
    each(device, random, draw).map_err(|Fault(message)| Fault(format!("seed {}: {message}", draw.seed)))
}

fn each(device: &dyn Kernels, random: &mut Random, draw: &Draw) -> Result<(), Fault> {
    for &act in &draw.acts {
        for &stored in &draw.weights {
            let dtypes = (act, stored);
            let shape = (extent(random, 40), extent(random, 300), extent(random, 150));
            linear_of(device, random, dtypes, shape)?;
            let shape = (extent(random, 20), extent(random, 700).max(2));
            rms_norm_of(device, random, dtypes, shape)?;
            let shape = (extent(random, 20), extent(random, 700).max(2));
            layer_norm_of(device, random, dtypes, shape)?;
            let (rows, width) = (extent(random, 90), extent(random, 60));
            let ids: Vec<u32> = (0..extent(random, 50)).map(|_| below(random, rows) as u32).collect();
            gather_of(device, random, dtypes, (rows, width), &ids)?;
            let shape = (extent(random, 30), extent(random, 90));
            cast_of(device, random, (stored, act), shape)?;
        }
        for op in OPERATIONS {
            let shape = (extent(random, 30), extent(random, 90));
            binary_of(device, random, op, act, shape)?;
        }
        for f in FUNCTIONS {
            let values: Vec<f32> = (0..extent(random, 3000)).map(|_| 9.0 * random.value()).collect();
            activate_of(device, f, act, &values)?;
        }
        let shape = (extent(random, 50), extent(random, 40), extent(random, 3), extent(random, 24));
        attention_of(device, random, act, shape)?;
    }
    Ok(())
}

/// 1 to `most`: as often a small one as a large one, odd ones among both.
fn extent(random: &mut Random, most: usize) -> usize {
    let most = if random.next() >> 63 == 0 { most } else { most.min(7) };
    1 + below(random, most)
}

fn below(random: &mut Random, n: usize) -> usize {
    (random.next() >> 33) as usize % n
}
