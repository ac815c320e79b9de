//! [`RmsNorm`].

use vram_types::DType::{BF16, F32};

use super::case::{Case, Fault, refused};
use super::rows::{Norm, norms, random_norm};
use super::suite::{Draws, Suite, Variant};
use super::tensors::{Random, Tensor};
use crate::ops::RmsNorm;
use crate::{Kernels, KernelsExt};

pub(super) const SUITE: Suite = Suite {
    operation: "rms_norm",
    doc: RmsNorm::DOC,
    variants: &[
        Variant::required(
            "rms_norm",
            |device| norms(device, NORM),
            Draws::ForWeights(|device, random, dtypes| random_norm(device, random, NORM, dtypes)),
        ),
        Variant::required(
            "rms_norm: no weight",
            |device| norms(device, PLAIN),
            Draws::ForWeights(|device, random, dtypes| random_norm(device, random, PLAIN, dtypes)),
        ),
    ],
    refusals: Case::new("refusals: rms_norm", refusals),
};

const NORM: Norm = Norm {
    name: "rms_norm",
    kernel: |device, x, (weight, _), y| {
        Ok(device.call(RmsNorm::plain(x, 1e-6, y.view_mut()?).with_weight(weight), None)?)
    },
    reference: |row, w, _| {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        let scale = (mean + 1e-6).sqrt().recip();
        row.iter().zip(w).map(|(v, w)| (v * scale * w, (v * scale * w).abs())).collect()
    },
    weight: true,
    bias: false,
};

const PLAIN: Norm = Norm { weight: false, ..NORM };

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(21);
    let mut tensor = |dtype, shape: &[usize]| Tensor::random(device, &mut random, dtype, shape, 0);
    let (x, short, vector) = (tensor(F32, &[3, 8])?, tensor(F32, &[7])?, tensor(F32, &[8])?);
    let mut y = Tensor::poison(device, F32, [3, 8])?;
    let mut other = Tensor::poison(device, F32, [3, 7])?;
    let mut half = Tensor::poison(device, BF16, [3, 8])?;
    let call = |weight: &Tensor, y: &mut Tensor| -> Result<_, Fault> {
        Ok(device.call(RmsNorm::new(x.view()?, weight.view()?, 0.0, y.view_mut()?), None))
    };
    refused("a short weight", call(&short, &mut y)?)?;
    refused("another shape", call(&vector, &mut other)?)?;
    refused("another dtype", call(&vector, &mut half)?)
}
