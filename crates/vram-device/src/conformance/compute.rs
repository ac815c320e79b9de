//! [`Kernels`]: arithmetic against f64, and against itself where the budget must not matter.

use vram_types::{DType, TensorMeta};

use super::tensors::{POISON, Random, Tensor, near, rounded, same};
use super::{Case, Fault, ensure};
use crate::{Activation, AttentionArgs, Binary, Kernels, LinearArgs, ScratchFor};

pub(super) const CASES: &[Case] = &[
    Case { name: "linear: f64 sums, split weights, rows alone, odd addresses", check: linear },
    Case { name: "rms_norm", check: rms_norm },
    Case { name: "layer_norm", check: layer_norm },
    Case { name: "activate", check: activate },
    Case { name: "binary", check: binary },
    Case { name: "attention", check: attention },
    Case { name: "gather", check: gather },
    Case { name: "cast", check: cast },
];

pub(super) const ACTS: [DType; 2] = [DType::F32, DType::BF16];
pub(super) const WEIGHTS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];
pub(super) const FUNCTIONS: [Activation; 2] = [Activation::Gelu, Activation::Silu];
pub(super) const OPERATIONS: [Binary; 2] = [Binary::Add, Binary::Mul];

/// Rows `rows` of the output, with the weight in pieces that end at `cuts`.
fn linear_in_pieces(
    device: &dyn Kernels,
    (x, rows): (&Tensor, (usize, usize)),
    (weight, bias): (&Tensor, Option<&Tensor>),
    cuts: &[usize],
) -> Result<Vec<u8>, Fault> {
    let x = x.rows(rows.0, rows.1)?;
    let scratch = device.scratch_bytes(ScratchFor::Linear { x: x.meta() });
    let mut packed = Tensor::poison(device, DType::U8, [scratch as usize])?;
    device.linear_pack(&x, &mut packed.view_mut()?)?;
    let outputs = weight.meta.shape()[0];
    let mut y = Tensor::poison(device, x.dtype(), [rows.1 - rows.0, outputs])?;
    let size = x.dtype().bits() as usize / 8;
    let mut first = 0;
    for &end in cuts.iter().chain([&outputs]) {
        let args = LinearArgs {
            x: x.clone(),
            packed: packed.view()?,
            weight: weight.rows(first, end)?,
            bias: bias.map(|b| b.rows(first, end)).transpose()?,
            first_output: first,
        };
        device.linear(&args, &mut y.view_mut()?)?;
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

/// `m` rows of `k` elements to `n` outputs.
pub(super) fn linear_of(
    device: &dyn Kernels,
    random: &mut Random,
    (act, stored): (DType, DType),
    (m, k, n): (usize, usize, usize),
) -> Result<(), Fault> {
    let what = format!("linear {act} by {stored}, {m} rows, {k} to {n}");
    let x = Tensor::random(device, random, act, [m, k], 0)?;
    let weight = Tensor::random(device, random, stored, [n, k], 1)?;
    let bias = Tensor::random(device, random, stored, [n], 3)?;
    let (w, b) = (rounded(&weight.values, act)?, rounded(&bias.values, act)?);
    let mut expected = Vec::new();
    for row in x.values.chunks_exact(k) {
        for (w, b) in w.chunks_exact(k).zip(&b) {
            let terms = row.iter().zip(w).map(|(x, w)| x * w);
            let size: f64 = terms.clone().map(f64::abs).sum();
            expected.push((terms.sum::<f64>() + b, size + b.abs()));
        }
    }
    let whole = linear_in_pieces(device, (&x, (0, m)), (&weight, Some(&bias)), &[])?;
    near(&what, &whole, act, &expected)?;
    let cuts: Vec<usize> = (1..n.div_ceil(16)).map(|i| i * 16).collect();
    let split = linear_in_pieces(device, (&x, (0, m)), (&weight, Some(&bias)), &cuts)?;
    same(&format!("{what}, the weight in {} pieces", cuts.len() + 1), &split, &whole)?;
    let row = whole.len() / m;
    let alone = linear_in_pieces(device, (&x, (m - 1, m)), (&weight, Some(&bias)), &[])?;
    same(&format!("{what}, a row alone"), &alone, &whole[(m - 1) * row..])?;
    let even = Tensor::of(device, weight.bytes.clone(), weight.meta.clone(), 0)?;
    let aligned = linear_in_pieces(device, (&x, (0, m)), (&even, Some(&bias)), &[])?;
    same(&format!("{what}, the weight aligned"), &aligned, &whole)?;
    let plain = linear_in_pieces(device, (&x, (0, m)), (&weight, None), &[])?;
    let without: Vec<_> =
        expected.iter().zip(b.iter().cycle()).map(|((e, size), b)| (e - b, *size)).collect();
    near(&format!("{what}, without bias"), &plain, act, &without)
}

/// A norm: its name, what calls it, and what is right for one row.
type Norm<'a> = (&'a str, NormKernel<'a>, NormRow);
/// `x` and which rows of it, the weight, the bias and the result.
type NormKernel<'a> = &'a dyn Fn(&Tensor, (usize, usize), &Tensor, &Tensor, &mut Tensor) -> Result<(), Fault>;
/// Values and the sizes of what was added up, from a row, the weight and the bias.
type NormRow = fn(&[f64], &[f64], &[f64]) -> Vec<(f64, f64)>;

/// Checks a kernel on two dtypes and `m` rows of `width` elements.
type OnRows = fn(&dyn Kernels, &mut Random, (DType, DType), (usize, usize)) -> Result<(), Fault>;

fn norms(device: &dyn Kernels, check: OnRows) -> Result<(), Fault> {
    let mut random = Random::new(11);
    for act in ACTS {
        for stored in WEIGHTS {
            for shape in [(1, 2), (3, 7), (5, 333), (33, 64)] {
                check(device, &mut random, (act, stored), shape)?;
            }
        }
    }
    Ok(())
}

/// One norm of `m` rows, and its invariance to batches and addresses.
fn norm_of(
    device: &dyn Kernels,
    random: &mut Random,
    (name, kernel, reference): Norm<'_>,
    (act, stored): (DType, DType),
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let what = format!("{name} {act} by {stored}, [{m}, {width}]");
    let x = Tensor::random(device, random, act, [m, width], 0)?;
    let weight = Tensor::random(device, random, stored, [width], 1)?;
    let bias = Tensor::random(device, random, stored, [width], 5)?;
    let (w, b) = (rounded(&weight.values, act)?, rounded(&bias.values, act)?);
    let expected: Vec<_> = x.values.chunks_exact(width).flat_map(|row| reference(row, &w, &b)).collect();
    let mut y = Tensor::poison(device, act, [m, width])?;
    kernel(&x, (0, m), &weight, &bias, &mut y)?;
    let whole = y.download(device)?;
    near(&what, &whole, act, &expected)?;
    let mut one = Tensor::poison(device, act, [1, width])?;
    kernel(&x, (m - 1, m), &weight, &bias, &mut one)?;
    let row = whole.len() / m;
    same(&format!("{what}, a row alone"), &one.download(device)?, &whole[(m - 1) * row..])
}

fn rms_norm(device: &dyn Kernels) -> Result<(), Fault> {
    norms(device, rms_norm_of)
}

/// `m` rows of `width` elements.
pub(super) fn rms_norm_of(
    device: &dyn Kernels,
    random: &mut Random,
    dtypes: (DType, DType),
    shape: (usize, usize),
) -> Result<(), Fault> {
    let kernel = |x: &Tensor, rows: (usize, usize), weight: &Tensor, _: &Tensor, y: &mut Tensor| {
        Ok(device.rms_norm(&x.rows(rows.0, rows.1)?, &weight.view()?, 1e-6, &mut y.view_mut()?)?)
    };
    let reference: NormRow = |row, w, _| {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        let scale = (mean + 1e-6).sqrt().recip();
        row.iter().zip(w).map(|(v, w)| (v * scale * w, (v * scale * w).abs())).collect()
    };
    norm_of(device, random, ("rms_norm", &kernel, reference), dtypes, shape)
}

fn layer_norm(device: &dyn Kernels) -> Result<(), Fault> {
    norms(device, layer_norm_of)
}

/// `m` rows of `width` elements.
pub(super) fn layer_norm_of(
    device: &dyn Kernels,
    random: &mut Random,
    dtypes: (DType, DType),
    shape: (usize, usize),
) -> Result<(), Fault> {
    let kernel = |x: &Tensor, rows: (usize, usize), weight: &Tensor, bias: &Tensor, y: &mut Tensor| {
        let x = x.rows(rows.0, rows.1)?;
        Ok(device.layer_norm(&x, &weight.view()?, &bias.view()?, 1e-3, &mut y.view_mut()?)?)
    };
    let reference: NormRow = |row, w, b| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let scale = (variance + 1e-3).sqrt().recip();
        let one = |((v, w), b): ((&f64, &f64), &f64)| {
            let size = ((v.abs() + mean.abs()) * scale * w).abs() + b.abs();
            ((v - mean) * scale * w + b, 2.0 * size)
        };
        row.iter().zip(w).zip(b).map(one).collect()
    };
    norm_of(device, random, ("layer_norm", &kernel, reference), dtypes, shape)
}

/// By its series where that converges well, else by its continued fraction.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..200).rev().fold(0.0, |f, n| f64::from(n) / 2.0 / (x + f));
    (-x * x).exp() / (x + fraction) / std::f64::consts::PI.sqrt()
}

fn activate(device: &dyn Kernels) -> Result<(), Fault> {
    let values: Vec<f32> = (-1201..1201).map(|i| i as f32 / 150.0).collect();
    for act in ACTS {
        for f in FUNCTIONS {
            activate_of(device, f, act, &values)?;
        }
    }
    Ok(())
}

/// A function of these values, in place.
pub(super) fn activate_of(
    device: &dyn Kernels,
    f: Activation,
    act: DType,
    values: &[f32],
) -> Result<(), Fault> {
    let meta = TensorMeta::new(act, [values.len()])?;
    let mut x = Tensor::of(device, super::tensors::encode(values, act)?, meta, 0)?;
    device.activate(f, &mut x.view_mut()?)?;
    let right = |v: &f64| match f {
        Activation::Gelu => v * erfc(-v / std::f64::consts::SQRT_2) / 2.0,
        Activation::Silu => v / (1.0 + (-v).exp()),
    };
    let expected: Vec<_> = x.values.iter().map(|v| (right(v), right(v).abs())).collect();
    near(&format!("{f:?} {act} of {} values", values.len()), &x.download(device)?, act, &expected)
}

fn binary(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(13);
    for act in ACTS {
        for op in OPERATIONS {
            binary_of(device, &mut random, op, act, (7, 101))?;
        }
    }
    Ok(())
}

/// Two tensors `[m, width]`.
pub(super) fn binary_of(
    device: &dyn Kernels,
    random: &mut Random,
    op: Binary,
    act: DType,
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let x = Tensor::random(device, random, act, [m, width], 0)?;
    let mut y = Tensor::random(device, random, act, [m, width], 0)?;
    device.binary(op, &x.view()?, &mut y.view_mut()?)?;
    let one = |(x, y): (&f64, &f64)| match op {
        Binary::Add => (x + y, x.abs() + y.abs()),
        Binary::Mul => (x * y, (x * y).abs()),
    };
    let expected: Vec<_> = x.values.iter().zip(&y.values).map(one).collect();
    near(&format!("{op:?} {act}, [{m}, {width}]"), &y.download(device)?, act, &expected)
}

fn attention(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(14);
    for act in ACTS {
        for (tokens, heads, dim) in [(1, 1, 1), (5, 2, 3), (33, 3, 16), (67, 1, 40)] {
            attention_of(device, &mut random, act, (tokens, tokens, heads, dim))?;
        }
    }
    Ok(())
}

/// Queries and keys of `heads` heads of `dim` elements.
pub(super) fn attention_of(
    device: &dyn Kernels,
    random: &mut Random,
    act: DType,
    (queries, keys, heads, dim): (usize, usize, usize, usize),
) -> Result<(), Fault> {
    let width = heads * dim;
    let mut tensor = |tokens| Tensor::random(device, random, act, [tokens, width], 0);
    let (q, k, v) = (tensor(queries)?, tensor(keys)?, tensor(keys)?);
    let scale = (dim as f32).sqrt().recip();
    let run = |to: usize| -> Result<Vec<u8>, Fault> {
        // Sized by the keys alone: it does for any number of queries.
        let scratch = device.scratch_bytes(ScratchFor::Attention { k: &k.meta, heads });
        let q = q.rows(0, to)?;
        let mut scratch = Tensor::poison(device, DType::U8, [scratch as usize])?;
        let mut y = Tensor::poison(device, act, [to, width])?;
        let args = AttentionArgs { q, k: k.view()?, v: v.view()?, heads, scale };
        device.attention(&args, &mut scratch.view_mut()?, &mut y.view_mut()?)?;
        y.download(device)
    };
    let mut expected = vec![(0.0, 0.0); queries * width];
    for (query, head) in (0..queries).flat_map(|t| (0..heads).map(move |h| (t, h))) {
        let row = |t: usize| t * width + head * dim..t * width + (head + 1) * dim;
        let dot = |t| -> f64 { row(query).zip(row(t)).map(|(i, j)| q.values[i] * k.values[j]).sum() };
        let scores: Vec<f64> = (0..keys).map(|t| (dot(t) * f64::from(scale)).exp()).collect();
        let total: f64 = scores.iter().sum();
        for (t, score) in scores.iter().enumerate() {
            for (i, j) in row(query).zip(row(t)) {
                expected[i].0 += score / total * v.values[j];
                expected[i].1 += (score / total * v.values[j]).abs();
            }
        }
    }
    let what = format!("attention {act}, {queries} queries, {keys} keys, {heads} heads of {dim}");
    let whole = run(queries)?;
    near(&what, &whole, act, &expected)?;
    same(&format!("{what}, one query alone"), &run(1)?, &whole[..whole.len() / queries])
}

fn gather(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(15);
    for act in ACTS {
        for stored in WEIGHTS {
            gather_of(device, &mut random, (act, stored), (41, 19), &[0, 40, 7, 7, 39])?;
        }
    }
    Ok(())
}

/// Rows of a table `[rows, width]`.
pub(super) fn gather_of(
    device: &dyn Kernels,
    random: &mut Random,
    (act, stored): (DType, DType),
    (rows, width): (usize, usize),
    ids: &[u32],
) -> Result<(), Fault> {
    let table = Tensor::random(device, random, stored, [rows, width], 1)?;
    let mut y = Tensor::poison(device, act, [ids.len(), width])?;
    device.gather(&table.view()?, ids, &mut y.view_mut()?)?;
    let rows_of = ids.iter().flat_map(|&id| &table.values[id as usize * width..][..width]);
    let expected: Vec<f64> = rounded(&rows_of.copied().collect::<Vec<_>>(), act)?;
    let expected = super::tensors::encode(&expected.iter().map(|&v| v as f32).collect::<Vec<_>>(), act)?;
    let what = format!("gather {act} from {stored}, {} of {rows} rows of {width}", ids.len());
    same(&what, &y.download(device)?, &expected)
}

fn cast(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(16);
    for from in WEIGHTS {
        for to in WEIGHTS {
            cast_of(device, &mut random, (from, to), (3, 37))?;
        }
    }
    Ok(())
}

/// A tensor `[m, width]` from one dtype to another.
pub(super) fn cast_of(
    device: &dyn Kernels,
    random: &mut Random,
    (from, to): (DType, DType),
    (m, width): (usize, usize),
) -> Result<(), Fault> {
    let x = Tensor::random(device, random, from, [m, width], 1)?;
    let mut y = Tensor::poison(device, to, [m, width])?;
    device.cast(&x.view()?, &mut y.view_mut()?)?;
    let mut expected = vec![0; y.bytes.len()];
    vram_types::cast::cast(&x.bytes, from, &mut expected, to)?;
    same(&format!("cast of {from} to {to}, [{m}, {width}]"), &y.download(device)?, &expected)
}
