//! [`Modulate`].

use vram_types::DType;
use vram_types::DType::F32;

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, extent};
use super::tensors::{Random, Tensor, near};
use crate::ops::Modulate;
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "modulate",
    doc: Modulate::DOC,
    variants: &[Variant::required(
        "modulate",
        modulate,
        Draws::ForActs(|device, random, act| {
            let shape = (extent(random, 30), extent(random, 90));
            modulate_of(device, random, act, shape)
        }),
    )],
    refusals: Case::new("refusals: modulate", refusals),
};

fn modulate(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(33);
    for act in ACTS {
        for shape in [(9, 77), (1, 1), (300, 500)] {
            modulate_of(device, &mut random, act, shape)?;
        }
    }
    Ok(())
}

fn modulate_of(
    device: &dyn Kernels,
    random: &mut Random,
    act: DType,
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let x = Tensor::random(device, random, act, [m, width], 0)?;
    let (scale, shift) = (
        Tensor::random(device, random, act, [width], 0)?,
        Tensor::random(device, random, act, [1, width], 0)?,
    );
    let mut y = Tensor::poison(device, act, [m, width])?;
    device.call(Modulate::new(x.view()?, scale.view()?, shift.view()?, y.view_mut()?), None)?;
    let one = |(i, x): (usize, &f64)| {
        let (product, shift) = (x * (1.0 + scale.values[i % width]), shift.values[i % width]);
        (product + shift, product.abs() + shift.abs())
    };
    let expected: Vec<_> = x.values.iter().enumerate().map(one).collect();
    near(&format!("modulate {act}, [{m}, {width}]"), &y.download(device)?, act, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(34);
    let mut tensor = |shape: [usize; 2]| Tensor::random(device, &mut random, F32, shape, 0);
    let (x, row, narrow) = (tensor([3, 8])?, tensor([1, 8])?, tensor([1, 7])?);
    let mut y = Tensor::poison(device, F32, [3, 8])?;
    let mut call = |scale: &Tensor, shift: &Tensor| -> Result<_, Fault> {
        Ok(device.call(Modulate::new(x.view()?, scale.view()?, shift.view()?, y.view_mut()?), None))
    };
    refused("a scale of another width", call(&narrow, &row)?)?;
    refused("a shift of several rows", call(&row, &x)?)
}
