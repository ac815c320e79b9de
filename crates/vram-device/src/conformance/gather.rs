//! [`Gather`].

use vram_types::DType::F32;
use vram_types::{BlockType, DType};

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, WEIGHTS, below, extent};
use super::tensors::{Random, Tensor, encode, rounded, same};
use crate::ops::Gather;
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "gather",
    doc: Gather::DOC,
    variants: &[
        Variant::required(
            "gather",
            gather,
            Draws::ForWeights(|device, random, dtypes| {
                let (rows, width) = (extent(random, 90), extent(random, 60));
                let ids: Vec<u32> = (0..extent(random, 50)).map(|_| below(random, rows) as u32).collect();
                gather_of(device, random, dtypes, (rows, width), &ids)
            }),
        ),
        Variant::optional(
            "gather: quantised blocks",
            blocks,
            Draws::ForActs(|device, random, act| {
                let block = BlockType::ALL[below(random, BlockType::ALL.len())];
                let (rows, blocks) = (extent(random, 40), extent(random, 4));
                let ids: Vec<u32> = (0..extent(random, 50)).map(|_| below(random, rows) as u32).collect();
                gather_of_blocks(device, random, (act, block), (rows, blocks), &ids)
            }),
        ),
    ],
    refusals: Case::new("refusals: gather", refusals),
};

fn gather(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(15);
    for act in ACTS {
        for stored in WEIGHTS {
            gather_of(device, &mut random, (act, stored), (41, 19), &[0, 40, 7, 7, 39])?;
        }
    }
    Ok(())
}

/// A table that is decoded as it is read.
fn blocks(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(16);
    for act in ACTS {
        for block in BlockType::ALL {
            gather_of_blocks(device, &mut random, (act, block), (21, 3), &[0, 20, 7, 7, 19])?;
        }
    }
    Ok(())
}

/// Rows of a table `[rows, blocks]`.
fn gather_of_blocks(
    device: &dyn Kernels,
    random: &mut Random,
    (act, block): (DType, BlockType),
    (rows, blocks): (usize, usize),
    ids: &[u32],
) -> Result<(), Fault> {
    let width = blocks * block.block_elements() as usize;
    let table = Tensor::blocks(device, random, block, [rows, width], 1)?;
    let what = format!("gather {act} from {block}, {} of {rows} rows of {width}", ids.len());
    agrees(device, &what, act, &table, ids)
}

/// Rows of a table `[rows, width]`.
fn gather_of(
    device: &dyn Kernels,
    random: &mut Random,
    (act, stored): (DType, DType),
    (rows, width): (usize, usize),
    ids: &[u32],
) -> Result<(), Fault> {
    let table = Tensor::random(device, random, stored, [rows, width], 1)?;
    let what = format!("gather {act} from {stored}, {} of {rows} rows of {width}", ids.len());
    agrees(device, &what, act, &table, ids)
}

fn agrees(device: &dyn Kernels, what: &str, act: DType, table: &Tensor, ids: &[u32]) -> Result<(), Fault> {
    let width = table.meta.shape()[1];
    let mut y = Tensor::poison(device, act, [ids.len(), width])?;
    device.call(Gather::new(table.view()?, ids, y.view_mut()?), None)?;
    let rows_of = ids.iter().flat_map(|&id| &table.values[id as usize * width..][..width]);
    let expected: Vec<f64> = rounded(&rows_of.copied().collect::<Vec<_>>(), act)?;
    let expected = encode(&expected.iter().map(|&v| v as f32).collect::<Vec<_>>(), act)?;
    same(what, &y.download(device)?, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(25), F32, [3, 8], 0)?;
    let mut y = Tensor::poison(device, F32, [3, 8])?;
    let mut call = |ids: &[u32]| -> Result<_, Fault> {
        Ok(device.call(Gather::new(x.view()?, ids, y.view_mut()?), None))
    };
    refused("a row that the table has not", call(&[0, 3, 1])?)?;
    refused("too few rows", call(&[0, 1])?)
}
