//! [`Attention`].

use vram_types::DType;
use vram_types::DType::F32;

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, below, extent};
use super::tensors::{POISON, Random, Tensor, near, same, with_scratch};
use crate::ops::Attention;
use crate::{Kernels, KernelsExt};

/// A variant of attention.
macro_rules! attention {
    ($name:literal, $causal:literal, $shared:literal) => {
        Variant::required(
            $name,
            |device| on_chosen(device, $causal, $shared),
            Draws::ForActs(|device, random, act| on_random(device, random, act, ($causal, $shared))),
        )
    };
}

pub(super) const SUITE: Suite = Suite {
    operation: "attention",
    doc: Attention::DOC,
    variants: &[
        attention!("attention", false, false),
        attention!("attention: causal", true, false),
        attention!("attention: grouped queries", false, true),
        attention!("attention: causal, grouped queries", true, true),
    ],
    refusals: Case::new("refusals: attention", refusals),
};

#[derive(Clone, Copy, Debug)]
struct Shape {
    queries: usize,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    causal: Option<usize>,
}

fn on_chosen(device: &dyn Kernels, causal: bool, shared: bool) -> Result<(), Fault> {
    let mut random = Random::new(14);
    for act in ACTS {
        for (tokens, kv_heads, dim) in [(1, 1, 1), (5, 2, 3), (33, 3, 16), (67, 1, 40)] {
            let (heads, causal) = (kv_heads * if shared { 3 } else { 1 }, causal.then_some(0));
            let shape = Shape { queries: tokens, keys: tokens, heads, kv_heads, dim, causal };
            attention_of(device, &mut random, act, shape)?;
        }
        // Wide heads, and queries that see more keys than kernels take at a time; some see none of the last
        // keys.
        for (queries, keys, dim) in [(20, 20, 130), (66, 140, 20)] {
            let (heads, causal) = (if shared { 3 } else { 1 }, causal.then_some(keys - queries));
            let shape = Shape { queries, keys, heads, kv_heads: 1, dim, causal };
            attention_of(device, &mut random, act, shape)?;
        }
    }
    Ok(())
}

fn on_random(
    device: &dyn Kernels,
    random: &mut Random,
    act: DType,
    (causal, shared): (bool, bool),
) -> Result<(), Fault> {
    let (queries, keys) = (extent(random, 50), extent(random, 40));
    let (kv_heads, dim) = (extent(random, 3), extent(random, 24));
    let heads = kv_heads * if shared { 1 + extent(random, 3) } else { 1 };
    // From before all keys to beyond the last.
    let causal = causal.then(|| below(random, keys + 3));
    attention_of(device, random, act, Shape { queries, keys, heads, kv_heads, dim, causal })
}

fn attention_of(device: &dyn Kernels, random: &mut Random, act: DType, shape: Shape) -> Result<(), Fault> {
    let Shape { queries, keys, heads, kv_heads, dim, causal } = shape;
    let (width, kv_width) = (heads * dim, kv_heads * dim);
    let seen = |query: usize| causal.map_or(keys, |p| keys.min(p + query + 1));
    let q = Tensor::random(device, random, act, [queries, width], 0)?;
    // Keys that no query sees are NaN.
    let mut tensor = || -> Result<Tensor, Fault> {
        let tensor = Tensor::random(device, random, act, [keys, kv_width], 0)?;
        let (mut bytes, meta) = (tensor.bytes, tensor.meta);
        let row = bytes.len() / keys;
        bytes[seen(queries - 1) * row..].fill(POISON);
        Tensor::of(device, bytes, meta, 0)
    };
    let (k, v) = (tensor()?, tensor()?);
    let scale = (dim as f32).sqrt().recip();
    let run = |from: usize, to: usize| -> Result<Vec<u8>, Fault> {
        let mut y = Tensor::poison(device, act, [to - from, width])?;
        let op = Attention::new(q.rows(from, to)?, k.view()?, v.view()?, heads, y.view_mut()?);
        let op = op.with_kv_heads(kv_heads);
        let op = if let Some(position) = causal { op.with_causal(position + from) } else { op };
        with_scratch(device, op)?;
        y.download(device)
    };
    let mut expected = vec![(0.0, 0.0); queries * width];
    for (query, head) in (0..queries).flat_map(|t| (0..heads).map(move |h| (t, h))) {
        let row = query * width + head * dim..query * width + (head + 1) * dim;
        let group = head / (heads / kv_heads) * dim;
        let other = |t: usize| t * kv_width + group..t * kv_width + group + dim;
        let dot = |t| -> f64 { row.clone().zip(other(t)).map(|(i, j)| q.values[i] * k.values[j]).sum() };
        let scores: Vec<f64> = (0..seen(query)).map(|t| (dot(t) * f64::from(scale)).exp()).collect();
        let total: f64 = scores.iter().sum();
        for (t, score) in scores.iter().enumerate() {
            for (i, j) in row.clone().zip(other(t)) {
                expected[i].0 += score / total * v.values[j];
                expected[i].1 += (score / total * v.values[j]).abs();
            }
        }
    }
    let what = format!("attention {act}, {shape:?}");
    let whole = run(0, queries)?;
    near(&what, &whole, act, &expected)?;
    let row = whole.len() / queries;
    same(&format!("{what}, the first query alone"), &run(0, 1)?, &whole[..row])?;
    same(&format!("{what}, the last alone"), &run(queries - 1, queries)?, &whole[(queries - 1) * row..])
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(22);
    let mut tensor = |shape: [usize; 2]| Tensor::random(device, &mut random, F32, shape, 0);
    let (q, narrow, fewer) = (tensor([4, 6])?, tensor([4, 5])?, tensor([3, 6])?);
    let mut y = Tensor::poison(device, F32, [4, 6])?;
    with_scratch(device, Attention::new(q.view()?, q.view()?, q.view()?, 2, y.view_mut()?))?;
    let mut grouped = |k: &Tensor, v: &Tensor, heads, kv_heads| -> Result<_, Fault> {
        let op = Attention::new(q.view()?, k.view()?, v.view()?, heads, y.view_mut()?);
        Ok(device.call(op.with_kv_heads(kv_heads), None))
    };
    let half = tensor([4, 3])?;
    refused("groups that do not divide the heads", grouped(&half, &half, 3, 2)?)?;
    refused("no heads of keys", grouped(&half, &half, 2, 0)?)?;
    refused("keys of all heads where heads share", grouped(&q, &q, 2, 1)?)?;
    let mut call = |k: &Tensor, v: &Tensor, heads| grouped(k, v, heads, heads);
    refused("heads that do not divide the width", call(&q, &q, 4)?)?;
    refused("no heads", call(&q, &q, 0)?)?;
    refused("keys of another width", call(&narrow, &q, 2)?)?;
    refused("fewer values than keys", call(&q, &fewer, 2)?)
}
