//! What does not fit is an error, neither a panic nor a guess.

use vram_types::DType::{BF16, F32, I64, U8};

use super::tensors::{Random, Tensor};
use super::{Case, Fault, ensure};
use crate::{AttentionArgs, Binary, DeviceError, Kernels, LinearArgs, ScratchFor};

pub(super) const CASES: &[Case] = &[
    Case { name: "refusals: linear", check: linear },
    Case { name: "refusals: rows and elements", check: rows },
    Case { name: "refusals: attention", check: attention },
];

fn refused(what: &str, result: Result<(), DeviceError>) -> Result<(), Fault> {
    let named = matches!(
        result,
        Err(DeviceError::Shape { .. }
            | DeviceError::DType { .. }
            | DeviceError::OutOfRange { .. }
            | DeviceError::Type(_))
    );
    ensure(named, || format!("{what} gave {result:?}"))
}

fn linear(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(20);
    let mut tensor = |dtype, shape: &[usize]| Tensor::random(device, &mut random, dtype, shape, 0);
    let (x, weight, bias) = (tensor(F32, &[3, 8])?, tensor(F32, &[5, 8])?, tensor(F32, &[5])?);
    let (narrow, long) = (tensor(F32, &[5, 7])?, tensor(F32, &[6])?);
    let flat = tensor(F32, &[40])?;
    let scratch = device.scratch_bytes(ScratchFor::Linear { x: &x.meta }) as usize;
    let mut packed = Tensor::poison(device, U8, [scratch])?;
    device.linear_pack(&x.view()?, &mut packed.view_mut()?)?;
    let call = |weight: &Tensor, bias: &Tensor, first_output, y: &mut Tensor| -> Result<_, Fault> {
        let args = LinearArgs {
            x: x.view()?,
            packed: packed.view()?,
            weight: weight.view()?,
            bias: Some(bias.view()?),
            first_output,
        };
        Ok(device.linear(&args, &mut y.view_mut()?))
    };
    let mut y = Tensor::poison(device, F32, [3, 5])?;
    call(&weight, &bias, 0, &mut y)??;
    refused("a weight with another inner extent", call(&narrow, &bias, 0, &mut y)?)?;
    refused("a weight that is no matrix", call(&flat, &bias, 0, &mut y)?)?;
    refused("a bias of another length", call(&weight, &long, 0, &mut y)?)?;
    refused("outputs behind the last", call(&weight, &bias, 1, &mut y)?)?;
    refused("an output without room", call(&weight, &bias, 0, &mut Tensor::poison(device, F32, [3, 4])?)?)?;
    refused("too few rows", call(&weight, &bias, 0, &mut Tensor::poison(device, F32, [2, 5])?)?)?;
    refused("another dtype", call(&weight, &bias, 0, &mut Tensor::poison(device, BF16, [3, 5])?)?)?;
    if scratch > 0 {
        let mut small = Tensor::poison(device, U8, [scratch - 1])?;
        refused("too little scratch", device.linear_pack(&x.view()?, &mut small.view_mut()?))?;
    }
    Ok(())
}

fn rows(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(21);
    let mut tensor = |dtype, shape: &[usize]| Tensor::random(device, &mut random, dtype, shape, 0);
    let (x, short, vector) = (tensor(F32, &[3, 8])?, tensor(F32, &[7])?, tensor(F32, &[8])?);
    let mut y = Tensor::poison(device, F32, [3, 8])?;
    let mut other = Tensor::poison(device, F32, [3, 7])?;
    let mut half = Tensor::poison(device, BF16, [3, 8])?;
    let x = x.view()?;
    refused("rms_norm by a short weight", device.rms_norm(&x, &short.view()?, 0.0, &mut y.view_mut()?))?;
    refused("rms_norm to another shape", device.rms_norm(&x, &vector.view()?, 0.0, &mut other.view_mut()?))?;
    let (short, vector) = (short.view()?, vector.view()?);
    refused("layer_norm by a short weight", device.layer_norm(&x, &short, &vector, 0.0, &mut y.view_mut()?))?;
    refused("layer_norm by a short bias", device.layer_norm(&x, &vector, &short, 0.0, &mut y.view_mut()?))?;
    refused(
        "layer_norm to another dtype",
        device.layer_norm(&x, &vector, &vector, 0.0, &mut half.view_mut()?),
    )?;
    refused("binary of two shapes", device.binary(Binary::Add, &x, &mut other.view_mut()?))?;
    refused("binary of two dtypes", device.binary(Binary::Mul, &x, &mut half.view_mut()?))?;
    refused("cast to another shape", device.cast(&x, &mut other.view_mut()?))?;
    refused("gather of a row that is not", device.gather(&x, &[0, 3, 1], &mut y.view_mut()?))?;
    refused("gather into too few rows", device.gather(&x, &[0, 1], &mut y.view_mut()?))?;
    let mut whole = Tensor::of(device, vec![0; 64], vram_types::TensorMeta::new(I64, [8])?, 0)?;
    refused("an activation of integers", device.activate(crate::Activation::Gelu, &mut whole.view_mut()?))
}

fn attention(device: &dyn Kernels) -> Result<(), Fault> {
    let mut random = Random::new(22);
    let mut tensor = |shape: [usize; 2]| Tensor::random(device, &mut random, F32, shape, 0);
    let (q, narrow, fewer) = (tensor([4, 6])?, tensor([4, 5])?, tensor([3, 6])?);
    let scratch = device.scratch_bytes(ScratchFor::Attention { k: &q.meta, heads: 2 }) as usize;
    let mut scratch = Tensor::poison(device, U8, [scratch])?;
    let mut y = Tensor::poison(device, F32, [4, 6])?;
    let mut call = |k: &Tensor, v: &Tensor, heads| -> Result<_, Fault> {
        let args = AttentionArgs { q: q.view()?, k: k.view()?, v: v.view()?, heads, scale: 1.0 };
        Ok(device.attention(&args, &mut scratch.view_mut()?, &mut y.view_mut()?))
    };
    call(&q, &q, 2)??;
    refused("heads that do not divide the width", call(&q, &q, 4)?)?;
    refused("no heads", call(&q, &q, 0)?)?;
    refused("keys of another width", call(&narrow, &q, 2)?)?;
    refused("fewer values than keys", call(&q, &fewer, 2)?)
}
