//! [`StridedCopy`].

use vram_types::DType::{BF16, F16, F32, I64, U8};
use vram_types::{DType, Shape, TensorMeta};

use super::case::{Case, Fault, refused};
use super::suite::{Draws, Suite, Variant, below, extent};
use super::tensors::{Random, Tensor, same};
use crate::ops::{Axes, Axis, StridedCopy};
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "strided_copy",
    doc: StridedCopy::DOC,
    variants: &[Variant::required(
        "strided_copy",
        strided_copy,
        Draws::ForActs(|device, random, act| {
            let shape = [extent(random, 6), extent(random, 9), extent(random, 9)];
            let order = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][below(random, 6)];
            permuted(device, random, act, shape, order)?;
            strided(device, random, act)
        }),
    )],
    refusals: Case::new("refusals: strided_copy", refusals),
};

fn strided_copy(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(45);
    for dtype in [F32, BF16, F16, U8, I64] {
        permuted(device, &mut random, dtype, [5, 3, 7], [1, 0, 2])?;
        permuted(device, &mut random, dtype, [5, 3, 7], [2, 1, 0])?;
        permuted(device, &mut random, dtype, [130, 9, 133], [1, 0, 2])?;
        permuted(device, &mut random, dtype, [130, 9, 133], [2, 0, 1])?;
        permuted(device, &mut random, dtype, [1, 1, 150_000], [2, 0, 1])?;
        columns(device, &mut random, dtype)?;
        (0..20).try_for_each(|_| strided(device, &mut random, dtype))?;
    }
    Ok(())
}

/// Any bits, including NaN, at byte `at` of an allocation.
fn bytes(
    device: &dyn Kernels,
    random: &mut Random,
    dtype: DType,
    shape: impl Into<Shape>,
    at: u64,
) -> Result<Tensor, Fault> {
    let meta = TensorMeta::new(dtype, shape)?;
    Tensor::of(device, random.bytes(meta.bytes() as usize), meta, at)
}

fn size_of(dtype: DType) -> usize {
    dtype.bits() as usize / 8
}

/// Axes in another order.
fn permuted(
    device: &dyn Kernels,
    random: &mut Random,
    dtype: DType,
    shape: [usize; 3],
    order: [usize; 3],
) -> Result<(), Fault> {
    let x = bytes(device, random, dtype, shape, 3)?;
    let turned = order.map(|axis| shape[axis]);
    let mut y = Tensor::poison(device, dtype, turned)?;
    device.call(StridedCopy::permuted(x.view()?, &order, y.view_mut()?)?, None)?;
    let (size, strides) = (size_of(dtype), [shape[1] * shape[2], shape[2], 1]);
    let mut expected = Vec::new();
    for i in 0..turned[0] {
        for j in 0..turned[1] {
            for k in 0..turned[2] {
                let from = i * strides[order[0]] + j * strides[order[1]] + k * strides[order[2]];
                expected.extend(&x.bytes[from * size..][..size]);
            }
        }
    }
    same(&format!("{shape:?} {dtype} as {order:?}"), &y.download(device)?, &expected)
}

/// Copies two tensors side by side into separate columns; all other elements must stay.
fn columns(device: &dyn Kernels, random: &mut Random, dtype: DType) -> Result<(), Fault> {
    let (a, b) = (bytes(device, random, dtype, [4, 3], 0)?, bytes(device, random, dtype, [4, 5], 1)?);
    let mut y = bytes(device, random, dtype, [4, 9], 0)?;
    device.call(StridedCopy::columns(a.view()?, 0, 3, 0, y.view_mut()?)?, None)?;
    device.call(StridedCopy::columns(b.view()?, 1, 4, 3, y.view_mut()?)?, None)?;
    let size = size_of(dtype);
    let mut expected = y.bytes.clone();
    for row in 0..4 {
        expected[row * 9 * size..][..3 * size].copy_from_slice(&a.bytes[row * 3 * size..][..3 * size]);
        expected[(row * 9 + 3) * size..][..4 * size]
            .copy_from_slice(&b.bytes[(row * 5 + 1) * size..][..4 * size]);
    }
    same(&format!("columns of two {dtype} tensors"), &y.download(device)?, &expected)
}

/// Any axes, including strides of 0 in `x` and gaps in `y`, checked against a loop over all of them.
fn strided(device: &dyn Kernels, random: &mut Random, dtype: DType) -> Result<(), Fault> {
    let mut axes = Vec::new();
    let (mut reads, mut writes) = (1, 1);
    for _ in 0..below(random, 7) {
        let (extent, from) = (extent(random, 4), below(random, 5));
        let to = writes + below(random, 3);
        axes.push(Axis { extent, from, to });
        reads += (extent - 1) * from;
        writes += (extent - 1) * to;
    }
    // In an order unrelated to their strides.
    let turn = below(random, axes.len() + 1);
    axes.rotate_left(turn);
    let (from, to) = (below(random, 4), below(random, 4));
    let (reads, writes) = (from + reads + below(random, 3), to + writes + below(random, 3));
    let x = bytes(device, random, dtype, [reads], 0)?;
    let mut y = bytes(device, random, dtype, [writes], 0)?;
    device.call(StridedCopy::new(x.view()?, from, axes.as_slice(), to, y.view_mut()?), None)?;
    let (size, mut expected) = (size_of(dtype), y.bytes.clone());
    for step in 0..axes.iter().map(|axis| axis.extent).product() {
        let (mut rest, mut source, mut target) = (step, from, to);
        for axis in &axes {
            source += rest % axis.extent * axis.from;
            target += rest % axis.extent * axis.to;
            rest /= axis.extent;
        }
        expected[target * size..][..size].copy_from_slice(&x.bytes[source * size..][..size]);
    }
    same(&format!("{axes:?} from {from} to {to}, {dtype}"), &y.download(device)?, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(46), F32, [4, 6], 0)?;
    let mut y = Tensor::poison(device, F32, [4, 6])?;
    let mut call = |extents: &[usize], from: &[usize], to: &[usize], first: usize| -> Result<_, Fault> {
        let axes = extents.iter().zip(from).zip(to);
        let axes: Axes = axes.map(|((&extent, &from), &to)| Axis { extent, from, to }).collect();
        Ok(device.call(StridedCopy::new(x.view()?, first, axes, 0, y.view_mut()?), None))
    };
    refused("beyond the end of x", call(&[4, 6], &[7, 1], &[6, 1], 0)?)?;
    refused("beyond the end of y", call(&[4, 6], &[6, 1], &[6, 2], 0)?)?;
    refused("a beginning too far on", call(&[4, 6], &[6, 1], &[6, 1], 1)?)?;
    refused("steps of y that meet", call(&[4, 6], &[6, 1], &[3, 1], 0)?)?;
    refused("steps of y that stand still", call(&[4], &[6], &[0], 0)?)?;
    refused("strides that overflow", call(&[3, 3], &[usize::MAX, 1], &[3, 1], 0)?)?;
    refused("more axes than six", call(&[1; 7], &[1; 7], &[1; 7], 0)?)?;
    let mut bytes = Tensor::of(device, vec![0; 24], TensorMeta::new(U8, [4, 6])?, 0)?;
    let axes = [Axis { extent: 24, from: 1, to: 1 }];
    refused("two dtypes", device.call(StridedCopy::new(x.view()?, 0, axes, 0, bytes.view_mut()?), None))?;
    let mut permuted = |order: &[usize]| -> Result<_, Fault> {
        Ok(StridedCopy::permuted(x.view()?, order, y.view_mut()?).map(drop))
    };
    refused("an order of too few axes", permuted(&[0])?)?;
    refused("an order that names an axis twice", permuted(&[0, 0])?)?;
    refused("a result of another shape", permuted(&[1, 0])?)?;
    let mut columns = |from, count, to| -> Result<_, Fault> {
        Ok(StridedCopy::columns(x.view()?, from, count, to, y.view_mut()?).map(drop))
    };
    refused("columns that x has not", columns(4, 3, 0)?)?;
    refused("columns that y has not", columns(0, 3, 4)?)
}
