//! [`Unary`].

use vram_types::{DType, TensorMeta};

use super::case::{Case, Fault, ensure, refused};
use super::suite::{ACTS, Draws, Suite, Variant, extent};
use super::tensors::{Random, Tensor, encode, near};
use crate::ops::{Unary, UnaryKind};
use crate::{DeviceError, Kernels, KernelsExt, ViewMut};

/// One of the functions.
macro_rules! function {
    ($name:literal, $kind:ident) => {
        Variant::required(
            $name,
            |device| on_chosen(device, UnaryKind::$kind),
            Draws::ForActs(|device, random, act| on_random(device, random, act, UnaryKind::$kind)),
        )
    };
}

pub(super) const SUITE: Suite = Suite {
    operation: "unary",
    doc: Unary::DOC,
    variants: &[
        function!("unary: gelu", Gelu),
        function!("unary: gelu, tanh form", GeluTanh),
        function!("unary: gelu, sigmoid form", GeluSigmoid),
        function!("unary: silu", Silu),
        function!("unary: tanh", Tanh),
        function!("unary: sigmoid", Sigmoid),
    ],
    refusals: Case::new("refusals: unary", refusals),
};

/// Values on both sides of zero, and in the tails.
fn on_chosen(device: &dyn Kernels, kind: UnaryKind) -> Result<(), Fault> {
    let values: Vec<f32> = (-1201..1201).map(|i| i as f32 / 150.0).collect();
    ACTS.into_iter().try_for_each(|act| unary_of(device, kind, act, &values))
}

fn on_random(device: &dyn Kernels, random: &mut Random, act: DType, kind: UnaryKind) -> Result<(), Fault> {
    let values: Vec<f32> = (0..extent(random, 3000)).map(|_| 9.0 * random.value()).collect();
    unary_of(device, kind, act, &values)
}

/// Applies a function to these values in place.
fn unary_of(device: &dyn Kernels, kind: UnaryKind, act: DType, values: &[f32]) -> Result<(), Fault> {
    let meta = TensorMeta::new(act, [values.len()])?;
    let mut x = Tensor::of(device, encode(values, act)?, meta, 0)?;
    device.call(Unary::new(kind, x.view_mut()?), None)?;
    let expected: Vec<_> = x.values.iter().map(|v| (right(kind, *v), right(kind, *v).abs())).collect();
    near(&format!("{kind:?} {act} of {} values", values.len()), &x.download(device)?, act, &expected)
}

/// The function in f64.
pub(super) fn right(kind: UnaryKind, x: f64) -> f64 {
    let sigmoid = |t: f64| 1.0 / (1.0 + (-t).exp());
    match kind {
        UnaryKind::Gelu => x * erfc(-x / std::f64::consts::SQRT_2) / 2.0,
        UnaryKind::GeluTanh => {
            let root = (2.0 / std::f64::consts::PI).sqrt();
            x / 2.0 * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh())
        }
        UnaryKind::GeluSigmoid => x * sigmoid(1.702 * x),
        UnaryKind::Silu => x * sigmoid(x),
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::Sigmoid => sigmoid(x),
    }
}

/// By its series where that converges well, otherwise by its continued fraction.
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

fn refusals(device: &dyn Kernels) -> Result<(), Fault> {
    let meta = TensorMeta::new(DType::I64, [8])?;
    let mut whole = Tensor::of(device, vec![0; 64], meta.clone(), 0)?;
    let integers = device.call(Unary::gelu(whole.view_mut()?), None);
    ensure(matches!(integers, Err(DeviceError::Unsupported { dtype: Some(DType::I64), .. })), || {
        format!("integers gave {integers:?}")
    })?;
    let absent = ViewMut::absent(TensorMeta::new(DType::F32, [8])?);
    refused("absent memory", device.call(Unary::silu(absent), None))
}
