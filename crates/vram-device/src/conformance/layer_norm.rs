//! [`LayerNorm`].

use vram_types::DType::{BF16, F32};

use super::case::{Case, Fault, refused};
use super::rows::{Norm, norms, random_norm};
use super::suite::{Draws, Suite, Variant};
use super::tensors::{Random, Tensor};
use crate::ops::LayerNorm;
use crate::{Kernels, KernelsExt};

/// With or without weight and bias.
macro_rules! norm {
    ($name:literal, $norm:expr) => {
        Variant::required(
            $name,
            |device| norms(device, $norm),
            Draws::ForWeights(|device, random, dtypes| random_norm(device, random, $norm, dtypes)),
        )
    };
}

pub(super) const SUITE: Suite = Suite {
    operation: "layer_norm",
    doc: LayerNorm::DOC,
    variants: &[
        norm!("layer_norm", NORM),
        norm!("layer_norm: no bias", Norm { bias: false, ..NORM }),
        norm!("layer_norm: no weight", Norm { weight: false, ..NORM }),
        norm!("layer_norm: no weight, no bias", Norm { weight: false, bias: false, ..NORM }),
    ],
    refusals: Case::new("refusals: layer_norm", refusals),
};

const NORM: Norm = Norm {
    name: "layer_norm",
    kernel: |device, x, (weight, bias), y| {
        Ok(device.call(LayerNorm::plain(x, 1e-3, y.view_mut()?).with_affine(weight, bias), None)?)
    },
    reference: |row, w, b| {
        let n = row.len() as f64;
        let mean = row.iter().sum::<f64>() / n;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let scale = (variance + 1e-3).sqrt().recip();
        let one = |((v, w), b): ((&f64, &f64), &f64)| {
            let size = ((v.abs() + mean.abs()) * scale * w).abs() + b.abs();
            ((v - mean) * scale * w + b, 2.0 * size)
        };
        row.iter().zip(w).zip(b).map(one).collect()
    },
    weight: true,
    bias: true,
};

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(23);
    let mut tensor = |dtype, shape: &[usize]| Tensor::random(device, &mut random, dtype, shape, 0);
    let (x, short, vector) = (tensor(F32, &[3, 8])?, tensor(F32, &[7])?, tensor(F32, &[8])?);
    let mut y = Tensor::poison(device, F32, [3, 8])?;
    let mut other = Tensor::poison(device, F32, [3, 7])?;
    let mut half = Tensor::poison(device, BF16, [3, 8])?;
    let call = |weight: &Tensor, bias: &Tensor, y: &mut Tensor| -> Result<_, Fault> {
        let op = LayerNorm::new(x.view()?, weight.view()?, bias.view()?, 0.0, y.view_mut()?);
        Ok(device.call(op, None))
    };
    refused("a short weight", call(&short, &vector, &mut y)?)?;
    refused("a short bias", call(&vector, &short, &mut y)?)?;
    refused("another shape", call(&vector, &vector, &mut other)?)?;
    refused("another dtype", call(&vector, &vector, &mut half)?)
}
