//! [`TopK`].

use vram_types::DType::{F32, U32};
use vram_types::{DType, TensorMeta};

use super::case::{Case, Fault, refused};
use super::suite::{ACTS, Draws, Suite, Variant, below, extent};
use super::tensors::{Random, Tensor, encode, same};
use crate::ops::TopK;
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "top_k",
    doc: TopK::DOC,
    variants: &[
        Variant::required(
            "top_k: k = 1",
            |device| on_chosen(device, &[1]),
            Draws::ForActs(|device, random, act| on_random(device, random, act, 1)),
        ),
        Variant::required(
            "top_k: any k",
            |device| on_chosen(device, &[1, 2, 5]),
            Draws::ForActs(|device, random, act| on_random(device, random, act, 9)),
        ),
    ],
    refusals: Case::new("refusals: top_k", refusals),
};

fn on_chosen(device: &dyn Kernels, ks: &[usize]) -> Result<(), Fault> {
    let values = [0.5, f32::NAN, 3.0, 3.0, -1.0, f32::INFINITY, -0.0, 0.0, f32::NEG_INFINITY, 3.0];
    for act in ACTS {
        for &k in ks {
            top_k_of(device, act, &values, (1, 10), k)?;
            top_k_of(device, act, &values, (2, 5), k)?;
            top_k_of(device, act, &few_values(&mut Random::new(48), 300 * 301), (300, 301), k)?;
        }
    }
    Ok(())
}

/// Rows with few distinct values, so that some are equal.
fn few_values(random: &mut Random, elements: usize) -> Vec<f32> {
    (0..elements).map(|_| below(random, 20) as f32 - 10.0).collect()
}

fn on_random(device: &dyn Kernels, random: &mut Random, act: DType, most: usize) -> Result<(), Fault> {
    let shape = (extent(random, 5), extent(random, 300));
    let k = 1 + below(random, shape.1.min(most));
    let values = few_values(random, shape.0 * shape.1);
    top_k_of(device, act, &values, shape, k)
}

fn top_k_of(
    device: &dyn Kernels,
    act: DType,
    values: &[f32],
    (rows, width): (usize, usize),
    k: usize,
) -> Result<(), Fault> {
    let x = Tensor::of(device, encode(values, act)?, TensorMeta::new(act, [rows, width])?, 0)?;
    let mut indices = Tensor::of(device, vec![0xff; rows * k * 4], TensorMeta::new(U32, [rows, k])?, 0)?;
    device.call(TopK::new(x.view()?, indices.view_mut()?), None)?;
    let mut expected = Vec::new();
    for row in x.values.chunks(width) {
        let mut order: Vec<usize> = (0..width).collect();
        // The sort is stable, so the first of equal elements stays first; a NaN is above every number.
        let key = |i: usize| if row[i].is_nan() { (1, 0.0) } else { (0, row[i]) };
        order.sort_by(|&a, &b| key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal));
        expected.extend(order.iter().take(k).flat_map(|&i| (i as u32).to_le_bytes()));
    }
    same(&format!("top {k} of {width} {act}"), &indices.download(device)?, &expected)
}

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let x = Tensor::random(device, &mut Random::new(47), F32, [2, 4], 0)?;
    let call = |dtype: DType, shape: [usize; 2]| -> Result<_, Fault> {
        let meta = TensorMeta::new(dtype, shape)?;
        let mut y = Tensor::of(device, vec![0; meta.bytes() as usize], meta, 0)?;
        Ok(device.call(TopK::new(x.view()?, y.view_mut()?), None))
    };
    refused("more than there are", call(U32, [2, 5])?)?;
    refused("none", call(U32, [2, 0])?)?;
    refused("another number of rows", call(U32, [3, 2])?)?;
    refused("indices of another dtype", call(F32, [2, 2])?)
}
