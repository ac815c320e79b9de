//! [`Binary`].

use vram_types::DType;
use vram_types::DType::{BF16, F32};

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, extent};
use super::tensors::{Random, Tensor, near};
use crate::ops::{Binary, BinaryKind, Broadcast};
use crate::{Kernels, KernelsExt, View};

/// One way to broadcast the operands.
macro_rules! broadcast {
    ($name:literal, $broadcast:ident) => {
        Variant::required(
            $name,
            |device| on_chosen(device, Broadcast::$broadcast),
            Draws::ForActs(|device, random, act| {
                KINDS.into_iter().try_for_each(|kind| {
                    let shape = (extent(random, 30), extent(random, 90));
                    binary_of(device, random, (kind, Broadcast::$broadcast), act, shape)
                })
            }),
        )
    };
}

pub(super) const SUITE: Suite = Suite {
    operation: "binary",
    doc: Binary::DOC,
    variants: &[
        broadcast!("binary", Equal),
        broadcast!("binary: x is one row", Row),
        broadcast!("binary: x is a column", Column),
    ],
    refusals: Case::new("refusals: binary", refusals),
};

const KINDS: [BinaryKind; 2] = [BinaryKind::Add, BinaryKind::Mul];

fn on_chosen(device: &dyn Kernels, broadcast: Broadcast) -> Result<(), Fault> {
    let mut random = Random::new(13);
    for act in ACTS {
        for kind in KINDS {
            for shape in [(7, 101), (1, 1), (300, 3), (2, 9000), (300, 500)] {
                binary_of(device, &mut random, (kind, broadcast), act, shape)?;
            }
        }
    }
    Ok(())
}

/// The result `[m, width]`, and `x` in each shape that it may have.
fn binary_of(
    device: &dyn Kernels,
    random: &mut Random,
    (kind, broadcast): (BinaryKind, Broadcast),
    act: DType,
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let shapes: &[&[usize]] = match broadcast {
        Broadcast::Equal => &[&[m, width]],
        Broadcast::Row => &[&[width], &[1, width]],
        Broadcast::Column => &[&[m, 1]],
    };
    for &shape in shapes {
        let x = Tensor::random(device, random, act, shape, 0)?;
        let mut y = Tensor::random(device, random, act, [m, width], 0)?;
        device.call(Binary::new(kind, x.view()?, y.view_mut()?), None)?;
        let one = |(i, y): (usize, &f64)| {
            let x = match broadcast {
                Broadcast::Equal => x.values[i],
                Broadcast::Row => x.values[i % width],
                Broadcast::Column => x.values[i / width],
            };
            match kind {
                BinaryKind::Add => (x + y, x.abs() + y.abs()),
                BinaryKind::Mul => (x * y, (x * y).abs()),
            }
        };
        let expected: Vec<_> = y.values.iter().enumerate().map(one).collect();
        near(&format!("{kind:?} {act}, {shape:?} and [{m}, {width}]"), &y.download(device)?, act, &expected)?;
    }
    Ok(())
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(24), F32, [3, 8], 0)?;
    let mut y = Tensor::poison(device, F32, [3, 8])?;
    let mut other = Tensor::poison(device, F32, [3, 7])?;
    let mut half = Tensor::poison(device, BF16, [3, 8])?;
    refused("two shapes", device.call(Binary::add(x.view()?, other.view_mut()?), None))?;
    refused("two dtypes", device.call(Binary::mul(x.view()?, half.view_mut()?), None))?;
    let mut third = Tensor::random(device, &mut Random::new(25), F32, [8, 1], 0)?;
    refused("a column for the width", device.call(Binary::add(third.view()?, y.view_mut()?), None))?;
    refused("a row for a column", device.call(Binary::add(y.rows(0, 1)?, third.view_mut()?), None))?;
    refused("two rows", device.call(Binary::add(x.rows(0, 2)?, y.view_mut()?), None))?;
    let absent = View::absent(x.meta.clone());
    refused("absent memory", device.call(Binary::add(absent, y.view_mut()?), None))
}
