//! [`Linear`]: f64 sums, split weights, single rows, odd addresses.

use vram_types::DType::{BF16, F32, U8};
use vram_types::{BlockType, DType, Encoding, TensorMeta};

use super::case::{Case, Fault, ensure, refused};
use super::suite::{ACTS, Draws, Suite, Variant, WEIGHTS, below, extent};
use super::tensors::{POISON, Random, Tensor, near, rounded, same};
use crate::ops::{Activations, Linear, Op};
use crate::{DeviceError, Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "linear",
    doc: Linear::DOC,
    variants: &[
        Variant::required(
            "linear",
            linear,
            Draws::ForWeights(|device, random, dtypes| {
                let shape = (extent(random, 40), extent(random, 300), extent(random, 150));
                linear_of(device, random, dtypes, shape)
            }),
        ),
        Variant::optional(
            "linear: quantised blocks",
            blocks,
            Draws::ForActs(|device, random, act| {
                let block = BlockType::ALL[below(random, BlockType::ALL.len())];
                let shape = (extent(random, 40), extent(random, 4), extent(random, 150));
                linear_of_blocks(device, random, (act, block, Activations::Exact), shape)
            }),
        ),
        Variant::optional(
            "linear: quantised blocks, x in 8 bits",
            blocks_by_bytes,
            Draws::ForActs(|device, random, act| {
                let block = BlockType::ALL[below(random, BlockType::ALL.len())];
                let shape = (extent(random, 40), extent(random, 4), extent(random, 150));
                linear_of_blocks(device, random, (act, block, Activations::Q8), shape)
            }),
        ),
        Variant::optional(
            "linear: fp8 with scales",
            scales,
            Draws::ForActs(|device, random, act| {
                let shape = [extent(random, 40), extent(random, 300), extent(random, 150)];
                let dtype = FP8[below(random, FP8.len())];
                let kind = below(random, 3);
                linear_with_scales(device, random, (act, dtype), shape, kind)
            }),
        ),
    ],
    refusals: Case::new("refusals: linear", refusals),
};

/// The dtypes that may have scales.
const FP8: [DType; 2] = [DType::F8_E4M3, DType::F8_E5M2];

/// Rows `rows` of the output, with the weight in pieces that end at `cuts`.
fn linear_in_pieces(
    device: &dyn Kernels,
    (x, activations, rows): (&Tensor, Activations, (usize, usize)),
    (weight, bias): (&Tensor, Option<&Tensor>),
    cuts: &[usize],
) -> Result<Vec<u8>, Fault> {
    let x = x.rows(rows.0, rows.1)?;
    let outputs = weight.meta.shape()[0];
    let mut y = Tensor::poison(device, x.dtype(), [rows.1 - rows.0, outputs])?;
    // The scratch of any piece: what is packed does not depend on the weight's rows.
    let whole = Linear::new(x.clone(), weight.view()?, y.view_mut()?).with_activations(activations);
    let whole = Op::from(whole);
    let mut scratch = Tensor::poison(device, U8, [device.scratch(&whole) as usize])?;
    let size = x.dtype().bits() as usize / 8;
    let mut first = 0;
    for &end in cuts.iter().chain([&outputs]) {
        let op = Linear::new(x.clone(), weight.rows(first, end)?, y.view_mut()?)
            .with_bias(bias.map(|b| b.rows(first, end)).transpose()?)
            .with_activations(activations)
            .at_output(first);
        let op = if first > 0 { op.reusing_scratch() } else { op };
        device.call(op, Some(&mut scratch.view_mut()?))?;
        let so_far = y.download(device)?;
        let behind = so_far.chunks_exact((outputs * size).max(1)).flat_map(|row| &row[end * size..]);
        ensure(behind.into_iter().all(|&b| b == POISON), || format!("linear wrote behind output {end}"))?;
        first = end;
    }
    y.download(device)
}

fn linear(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(10);
    for act in ACTS {
        for stored in WEIGHTS {
            for shape in [(1, 1, 1), (3, 7, 5), (2, 64, 33), (17, 129, 47), (35, 40, 70)] {
                linear_of(device, &mut random, (act, stored), shape)?;
            }
        }
    }
    Ok(())
}

/// A weight that is decoded while it is read.
fn blocks(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(11);
    for act in ACTS {
        for block in BlockType::ALL {
            for shape in [(1, 1, 1), (17, 3, 47), (35, 2, 70)] {
                linear_of_blocks(device, &mut random, (act, block, Activations::Exact), shape)?;
            }
        }
    }
    Ok(())
}

/// The same with an input that is rounded to 8 bits, in all numbers of rows that kernels take at once.
fn blocks_by_bytes(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(13);
    for act in ACTS {
        let bytes = |block: &BlockType| Activations::Q8.applies_to(Encoding::Blocks(*block));
        for block in BlockType::ALL.into_iter().filter(bytes) {
            for shape in [(1, 9, 20), (15, 3, 47), (130, 1, 17)] {
                linear_of_blocks(device, &mut random, (act, block, Activations::Q8), shape)?;
            }
        }
    }
    Ok(())
}

/// A weight whose scales are applied while it is read.
fn scales(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(12);
    for act in ACTS {
        for dtype in FP8 {
            for kind in 0..3 {
                for shape in [[1, 1, 1], [17, 129, 47], [3, 300, 150]] {
                    linear_with_scales(device, &mut random, (act, dtype), shape, kind)?;
                }
            }
        }
    }
    Ok(())
}

/// `m` rows of `k` elements to `n` outputs, with one scale, one for each row, or one for each 128 x 128.
fn linear_with_scales(
    device: &dyn Kernels,
    random: &mut Random,
    (act, dtype): (DType, DType),
    [m, k, n]: [usize; 3],
    kind: usize,
) -> Result<(), Fault> {
    let scales = [[1, 1], [n, 1], [n.div_ceil(128), k.div_ceil(128)]][kind];
    let x = Tensor::random(device, random, act, [m, k], 0)?;
    // The same weight twice.
    let seed = random.next();
    let [odd, even] =
        [1, 0].map(|at| Tensor::scaled(device, &mut Random::new(seed), dtype, ([n, k], scales), at));
    let bias = Tensor::random(device, random, act, [n], 2)?;
    let what = format!("linear {act} by {dtype} with scales {scales:?}, {m} rows, {k} to {n}");
    agrees(device, &what, (&x, Activations::Exact), (&odd?, &even?), &bias)
}

/// `m` rows of `blocks` blocks to `n` outputs.
fn linear_of_blocks(
    device: &dyn Kernels,
    random: &mut Random,
    (act, block, activations): (DType, BlockType, Activations),
    (m, blocks, n): (usize, usize, usize),
) -> Result<(), Fault> {
    let k = blocks * block.block_elements() as usize;
    let x = Tensor::random(device, random, act, [m, k], 0)?;
    // The same weight twice.
    let seed = random.next();
    let [odd, even] = [1, 0].map(|at| Tensor::blocks(device, &mut Random::new(seed), block, [n, k], at));
    let bias = Tensor::random(device, random, act, [n], 2)?;
    let what = format!("linear {act} by {block}, {activations:?}, {m} rows, {k} to {n}");
    agrees(device, &what, (&x, activations), (&odd?, &even?), &bias)
}

/// `m` rows of `k` elements to `n` outputs.
fn linear_of(
    device: &dyn Kernels,
    random: &mut Random,
    (act, stored): (DType, DType),
    (m, k, n): (usize, usize, usize),
) -> Result<(), Fault> {
    let what = format!("linear {act} by {stored}, {m} rows, {k} to {n}");
    let x = Tensor::random(device, random, act, [m, k], 0)?;
    let weight = Tensor::random(device, random, stored, [n, k], 1)?;
    let bias = Tensor::random(device, random, stored, [n], 3)?;
    let even = Tensor::of(device, weight.bytes.clone(), weight.meta.clone(), 0)?;
    agrees(device, &what, (&x, Activations::Exact), (&weight, &even), &bias)
}

/// Checks the result against sums in f64 and against itself, with the weight split and at another address:
/// `even` is the same weight at another place.
fn agrees(
    device: &dyn Kernels,
    what: &str,
    (x, activations): (&Tensor, Activations),
    (weight, even): (&Tensor, &Tensor),
    bias: &Tensor,
) -> Result<(), Fault> {
    let act = x.meta.dtype();
    let (m, k, n) = (x.meta.shape()[0], x.meta.shape()[1], weight.meta.shape()[0]);
    let b = rounded(&bias.values, act)?;
    let (values, w) = match activations.applies_to(weight.view()?.encoding()) {
        true => (x.values.chunks(32).flat_map(in_bytes).collect(), weight.values.clone()),
        false => (x.values.clone(), rounded(&weight.values, act)?),
    };
    let mut expected = Vec::new();
    for row in values.chunks_exact(k) {
        for (w, b) in w.chunks_exact(k).zip(&b) {
            let terms = row.iter().zip(w).map(|(x, w)| x * w);
            let size: f64 = terms.clone().map(f64::abs).sum();
            expected.push((terms.sum::<f64>() + b, size + b.abs()));
        }
    }
    let whole = linear_in_pieces(device, (x, activations, (0, m)), (weight, Some(bias)), &[])?;
    near(what, &whole, act, &expected)?;
    let cuts: Vec<usize> = (1..n.div_ceil(16)).map(|i| i * 16).collect();
    let split = linear_in_pieces(device, (x, activations, (0, m)), (weight, Some(bias)), &cuts)?;
    same(&format!("{what}, the weight in {} pieces", cuts.len() + 1), &split, &whole)?;
    let row = whole.len() / m;
    let alone = linear_in_pieces(device, (x, activations, (m - 1, m)), (weight, Some(bias)), &[])?;
    same(&format!("{what}, a row alone"), &alone, &whole[(m - 1) * row..])?;
    let aligned = linear_in_pieces(device, (x, activations, (0, m)), (even, Some(bias)), &[])?;
    same(&format!("{what}, the weight aligned"), &aligned, &whole)?;
    let plain = linear_in_pieces(device, (x, activations, (0, m)), (weight, None), &[])?;
    let without: Vec<_> =
        expected.iter().zip(b.iter().cycle()).map(|((e, size), b)| (e - b, *size)).collect();
    near(&format!("{what}, without bias"), &plain, act, &without)
}

/// Columns that share a scale, rounded to 8 bits.
fn in_bytes(values: &[f64]) -> Vec<f64> {
    let most = values.iter().fold(0f64, |most, v| most.max(v.abs())) as f32;
    if most == 0.0 {
        return vec![0.0; values.len()];
    }
    let (scale, inverse) = (most / 127.0, 127.0 / most);
    values.iter().map(|&v| f64::from(scale) * f64::from((v as f32 * inverse).round_ties_even())).collect()
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(20);
    let mut tensor = |dtype, shape: &[usize]| Tensor::random(device, &mut random, dtype, shape, 0);
    let (x, weight, bias) = (tensor(F32, &[3, 8])?, tensor(F32, &[5, 8])?, tensor(F32, &[5])?);
    let (narrow, long) = (tensor(F32, &[5, 7])?, tensor(F32, &[6])?);
    let flat = tensor(F32, &[40])?;
    let whole = Tensor::of(device, vec![0; 320], TensorMeta::new(DType::I64, [5, 8])?, 0)?;
    let mut y = Tensor::poison(device, F32, [3, 5])?;
    let needed = device.scratch(&Linear::new(x.view()?, weight.view()?, y.view_mut()?).into()) as usize;
    let mut scratch = Tensor::poison(device, U8, [needed])?;
    let mut call = |weight: &Tensor, bias: &Tensor, first_output, y: &mut Tensor| -> Result<_, Fault> {
        let op = Linear::new(x.view()?, weight.view()?, y.view_mut()?);
        let op = op.with_bias(Some(bias.view()?)).at_output(first_output);
        Ok(device.call(op, Some(&mut scratch.view_mut()?)))
    };
    call(&weight, &bias, 0, &mut y)??;
    refused("a weight with another inner extent", call(&narrow, &bias, 0, &mut y)?)?;
    refused("a weight that is no matrix", call(&flat, &bias, 0, &mut y)?)?;
    refused("a bias of another length", call(&weight, &long, 0, &mut y)?)?;
    refused("outputs behind the last", call(&weight, &bias, 1, &mut y)?)?;
    refused("an output without room", call(&weight, &bias, 0, &mut Tensor::poison(device, F32, [3, 4])?)?)?;
    refused("too few rows", call(&weight, &bias, 0, &mut Tensor::poison(device, F32, [2, 5])?)?)?;
    refused("another dtype", call(&weight, &bias, 0, &mut Tensor::poison(device, BF16, [3, 5])?)?)?;
    let integers = call(&whole, &bias, 0, &mut y)?;
    ensure(matches!(integers, Err(DeviceError::Unsupported { dtype: Some(DType::I64), .. })), || {
        format!("a weight of integers gave {integers:?}")
    })?;
    let quantised = Tensor::blocks(device, &mut Random::new(21), BlockType::Q8_0, [1, 32], 0)?;
    let mut one = Tensor::poison(device, F32, [1, 1])?;
    let plain = tensor(F32, &[1, 32])?;
    let op = Linear::new(quantised.view()?, plain.view()?, one.view_mut()?);
    refused("an input that is not decoded", device.call(op, Some(&mut scratch.view_mut()?)))?;
    if needed > 0 {
        let mut small = Tensor::poison(device, U8, [needed - 1])?;
        let op = Linear::new(x.view()?, weight.view()?, y.view_mut()?);
        refused("too little scratch", device.call(op, Some(&mut small.view_mut()?)))?;
        let op = Linear::new(x.view()?, weight.view()?, y.view_mut()?);
        refused("no scratch", device.call(op, None))?;
    }
    Ok(())
}
