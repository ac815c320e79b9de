//! [`Cast`].

use vram_types::DType::F32;
use vram_types::{BlockType, DType};

use super::case::{Case, Fault, refused};
use super::suite::{Draws, Suite, Variant, WEIGHTS, below, extent};
use super::tensors::{Random, Tensor, encode, same};
use crate::ops::Cast;
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "cast",
    doc: Cast::DOC,
    variants: &[
        Variant::required(
            "cast",
            cast,
            Draws::ForWeights(|device, random, (act, stored)| {
                let shape = (extent(random, 30), extent(random, 90));
                cast_of(device, random, (stored, act), shape)
            }),
        ),
        Variant::optional(
            "cast: quantised blocks",
            blocks,
            Draws::ForActs(|device, random, act| {
                let block = BlockType::ALL[below(random, BlockType::ALL.len())];
                let shape = (extent(random, 30), extent(random, 4));
                cast_of_blocks(device, random, (block, act), shape)
            }),
        ),
        Variant::optional(
            "cast: fp8 with scales",
            scales,
            Draws::ForActs(|device, random, act| {
                let shape = [extent(random, 30), extent(random, 300)];
                cast_with_scales(device, random, act, shape)
            }),
        ),
    ],
    refusals: Case::new("refusals: cast", refusals),
};

fn cast(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(16);
    for from in WEIGHTS {
        for to in WEIGHTS {
            cast_of(device, &mut random, (from, to), (3, 37))?;
        }
    }
    Ok(())
}

fn blocks(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(17);
    for block in BlockType::ALL {
        for to in WEIGHTS {
            cast_of_blocks(device, &mut random, (block, to), (3, 3))?;
        }
    }
    Ok(())
}

/// Casts `m` rows of blocks to a dtype.
fn cast_of_blocks(
    device: &dyn Kernels,
    random: &mut Random,
    (from, to): (BlockType, DType),
    (m, blocks): (usize, usize),
) -> Result<(), Fault> {
    let width = blocks * from.block_elements() as usize;
    let x = Tensor::blocks(device, random, from, [m, width], 1)?;
    let mut y = Tensor::poison(device, to, [m, width])?;
    device.call(Cast::new(x.view()?, y.view_mut()?), None)?;
    let expected = encode(&x.values.iter().map(|&v| v as f32).collect::<Vec<_>>(), to)?;
    same(&format!("cast of {from} to {to}, [{m}, {width}]"), &y.download(device)?, &expected)
}

fn scales(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(18);
    WEIGHTS.into_iter().try_for_each(|to| cast_with_scales(device, &mut random, to, [5, 300]))
}

/// With a scale for each row and 128 columns.
fn cast_with_scales(
    device: &dyn Kernels,
    random: &mut Random,
    to: DType,
    shape: [usize; 2],
) -> Result<(), Fault> {
    let scales = [shape[0], shape[1].div_ceil(128)];
    let x = Tensor::scaled(device, random, DType::F8_E4M3, (shape, scales), 1)?;
    let mut y = Tensor::poison(device, to, shape)?;
    device.call(Cast::new(x.view()?, y.view_mut()?), None)?;
    let expected = encode(&x.values.iter().map(|&v| v as f32).collect::<Vec<_>>(), to)?;
    same(&format!("cast of fp8 with scales to {to}, {shape:?}"), &y.download(device)?, &expected)
}

/// Casts a tensor `[m, width]` from one dtype to another.
fn cast_of(
    device: &dyn Kernels,
    random: &mut Random,
    (from, to): (DType, DType),
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let x = Tensor::random(device, random, from, [m, width], 1)?;
    let mut y = Tensor::poison(device, to, [m, width])?;
    device.call(Cast::new(x.view()?, y.view_mut()?), None)?;
    let mut expected = vec![0; y.bytes.len()];
    vram_types::cast::cast(&x.bytes, from, &mut expected, to)?;
    same(&format!("cast of {from} to {to}, [{m}, {width}]"), &y.download(device)?, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(26), F32, [3, 8], 0)?;
    let mut other = Tensor::poison(device, F32, [3, 7])?;
    refused("another shape", device.call(Cast::new(x.view()?, other.view_mut()?), None))
}
