//! [`ScaledAdd`].

use vram_types::DType;
use vram_types::DType::{BF16, F32};

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, extent};
use super::tensors::{Random, Tensor, near};
use crate::ops::ScaledAdd;
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "scaled_add",
    doc: ScaledAdd::DOC,
    variants: &[
        Variant::required(
            "scaled_add",
            |device| scaled_add(device, true),
            Draws::ForActs(|device, random, act| {
                let shape = (extent(random, 30), extent(random, 90));
                scaled_add_of(device, random, (act, true), shape)
            }),
        ),
        Variant::required(
            "scaled_add: by a number",
            |device| scaled_add(device, false),
            Draws::ForActs(|device, random, act| {
                let shape = (extent(random, 30), extent(random, 90));
                scaled_add_of(device, random, (act, false), shape)
            }),
        ),
    ],
    refusals: Case::new("refusals: scaled_add", refusals),
};

fn scaled_add(device: &dyn Kernels, gated: bool) -> Result<(), Fault> {
    let mut random = Random::new(35);
    for act in ACTS {
        for shape in [(9, 77), (1, 1), (300, 500)] {
            scaled_add_of(device, &mut random, (act, gated), shape)?;
        }
    }
    Ok(())
}

fn scaled_add_of(
    device: &dyn Kernels,
    random: &mut Random,
    (act, gated): (DType, bool),
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let x = Tensor::random(device, random, act, [m, width], 0)?;
    let gate = Tensor::random(device, random, act, [width], 0)?;
    let mut y = Tensor::random(device, random, act, [m, width], 0)?;
    let op = match gated {
        true => ScaledAdd::new(x.view()?, gate.view()?, y.view_mut()?),
        false => ScaledAdd::by(0.375, x.view()?, y.view_mut()?),
    };
    device.call(op, None)?;
    let one = |(i, (x, y)): (usize, (&f64, &f64))| {
        let product = if gated { gate.values[i % width] * x } else { 0.375 * x };
        (y + product, y.abs() + product.abs())
    };
    let expected: Vec<_> = x.values.iter().zip(&y.values).enumerate().map(one).collect();
    near(&format!("scaled_add {act}, [{m}, {width}]"), &y.download(device)?, act, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(36);
    let mut tensor = |shape: [usize; 2]| Tensor::random(device, &mut random, F32, shape, 0);
    let (x, narrow) = (tensor([3, 8])?, tensor([1, 7])?);
    let mut y = Tensor::poison(device, F32, [3, 8])?;
    let mut call = |gate: &Tensor| -> Result<_, Fault> {
        Ok(device.call(ScaledAdd::new(x.view()?, gate.view()?, y.view_mut()?), None))
    };
    refused("a narrow gate", call(&narrow)?)?;
    refused("a gate of several rows", call(&x)?)?;
    let half = Tensor::random(device, &mut Random::new(48), BF16, [8], 0)?;
    refused("a gate of another dtype", call(&half)?)
}
