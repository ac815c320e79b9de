//! [`Gated`].

use vram_types::DType;
use vram_types::DType::{BF16, F32};

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, extent};
use super::tensors::{Random, Tensor, near};
use super::unary::right;
use crate::ops::{Gated, UnaryKind};
use crate::{Kernels, KernelsExt};

/// One of the functions.
macro_rules! function {
    ($name:literal, $kind:ident) => {
        Variant::required(
            $name,
            |device| on_chosen(device, UnaryKind::$kind),
            Draws::ForActs(|device, random, act| {
                let shape = (extent(random, 30), extent(random, 90));
                gated_of(device, random, UnaryKind::$kind, act, shape)
            }),
        )
    };
}

pub(super) const SUITE: Suite = Suite {
    operation: "gated",
    doc: Gated::DOC,
    variants: &[
        function!("gated: gelu", Gelu),
        function!("gated: gelu, tanh form", GeluTanh),
        function!("gated: gelu, sigmoid form", GeluSigmoid),
        function!("gated: silu", Silu),
        function!("gated: tanh", Tanh),
        function!("gated: sigmoid", Sigmoid),
    ],
    refusals: Case::new("refusals: gated", refusals),
};

fn on_chosen(device: &dyn Kernels, kind: UnaryKind) -> Result<(), Fault> {
    let mut random = Random::new(31);
    for act in ACTS {
        for shape in [(7, 101), (50, 400)] {
            gated_of(device, &mut random, kind, act, shape)?;
        }
    }
    Ok(())
}

/// Two tensors `[m, width]`.
fn gated_of(
    device: &dyn Kernels,
    random: &mut Random,
    kind: UnaryKind,
    act: DType,
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let gate = Tensor::random(device, random, act, [m, width], 0)?;
    let mut y = Tensor::random(device, random, act, [m, width], 0)?;
    device.call(Gated::new(kind, gate.view()?, y.view_mut()?), None)?;
    let one = |(gate, y): (&f64, &f64)| (right(kind, *gate) * y, (right(kind, *gate) * y).abs());
    let expected: Vec<_> = gate.values.iter().zip(&y.values).map(one).collect();
    near(&format!("gated {kind:?} {act}, [{m}, {width}]"), &y.download(device)?, act, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let gate = Tensor::random(device, &mut Random::new(32), F32, [3, 8], 0)?;
    let mut narrow = Tensor::poison(device, F32, [3, 7])?;
    let mut half = Tensor::poison(device, BF16, [3, 8])?;
    let kind = UnaryKind::Silu;
    refused("two shapes", device.call(Gated::new(kind, gate.view()?, narrow.view_mut()?), None))?;
    refused("two dtypes", device.call(Gated::new(kind, gate.view()?, half.view_mut()?), None))
}
