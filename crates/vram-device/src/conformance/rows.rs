//! What the norms share.

use vram_types::DType;

use super::case::Fault;
use super::suite::{ACTS, WEIGHTS, extent};
use super::tensors::{Random, Tensor, near, rounded, same};
use crate::{Kernels, View};

/// A norm, and whether it has a weight and a bias.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub(super) name: &'static str,
    pub(super) kernel: NormKernel,
    pub(super) reference: NormRow,
    pub(super) weight: bool,
    pub(super) bias: bool,
}

/// Runs a norm of `x`, with the weight and the bias if given, into the result.
type NormKernel =
    fn(&dyn Kernels, View<'_>, (Option<View<'_>>, Option<View<'_>>), &mut Tensor) -> Result<(), Fault>;
/// From a row, the weight and the bias: the values, and the magnitudes of what was added up.
type NormRow = fn(&[f64], &[f64], &[f64]) -> Vec<(f64, f64)>;

/// Checks a norm on chosen shapes.
pub(super) fn norms(device: &dyn Kernels, norm: Norm) -> Result<(), Fault> {
    let mut random = Random::new(11);
    for act in ACTS {
        for stored in WEIGHTS {
            for shape in [(1, 2), (3, 7), (5, 333), (33, 64)] {
                norm_of(device, &mut random, norm, (act, stored), shape)?;
            }
        }
    }
    Ok(())
}

/// Checks a norm on a random shape.
pub(super) fn random_norm(
    device: &dyn Kernels,
    random: &mut Random,
    norm: Norm,
    dtypes: (DType, DType),
) -> Result<(), Fault> {
    let shape = (extent(random, 20), extent(random, 700).max(2));
    norm_of(device, random, norm, dtypes, shape)
}

/// Checks one norm of `m` rows, and that it does not depend on the batch or on addresses.
fn norm_of(
    device: &dyn Kernels,
    random: &mut Random,
    norm: Norm,
    (act, stored): (DType, DType),
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let Norm { name, kernel, reference, .. } = norm;
    let what =
        format!("{name} {act} by {stored}, [{m}, {width}], weight {}, bias {}", norm.weight, norm.bias);
    let x = Tensor::random(device, random, act, [m, width], 0)?;
    let weight = Tensor::random(device, random, stored, [width], 1)?;
    let bias = Tensor::random(device, random, stored, [width], 5)?;
    let affine = || -> Result<_, Fault> {
        let weight = norm.weight.then(|| weight.view()).transpose()?;
        Ok((weight, norm.bias.then(|| bias.view()).transpose()?))
    };
    let w = if norm.weight { rounded(&weight.values, act)? } else { vec![1.0; width] };
    let b = if norm.bias { rounded(&bias.values, act)? } else { vec![0.0; width] };
    let expected: Vec<_> = x.values.chunks_exact(width).flat_map(|row| reference(row, &w, &b)).collect();
    let mut y = Tensor::poison(device, act, [m, width])?;
    kernel(device, x.view()?, affine()?, &mut y)?;
    let whole = y.download(device)?;
    near(&what, &whole, act, &expected)?;
    let mut one = Tensor::poison(device, act, [1, width])?;
    kernel(device, x.rows(m - 1, m)?, affine()?, &mut one)?;
    let row = whole.len() / m;
    same(&format!("{what}, a row alone"), &one.download(device)?, &whole[(m - 1) * row..])
}
