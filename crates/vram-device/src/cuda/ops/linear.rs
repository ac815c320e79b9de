//! [`Linear`], by cublasLt if it is suitable, otherwise by our own kernels.

use super::super::blas::Product;
use super::super::device::Cuda;
use super::super::launch::{Arg, Launcher};
use super::super::operand::{activation, count};
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::Linear;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "linear",
    source: concat!(include_str!("common.cu"), include_str!("linear.cu")),
    kernels: &["linear_low", "linear_high"],
    by_weight: true,
};

/// Up to this many rows, the low tile is used.
const LOW: u32 = 32;

impl Cuda {
    pub(super) fn linear(&self, op: &Linear<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear";
        let (rows, inner) = (op.x.shape().rows(), op.x.shape().last());
        let (outputs, columns) = (op.weight.shape().rows(), op.y.shape().last());
        let (x, weight) = (self.launcher.read(NAME, &op.x)?, self.launcher.stored(NAME, &op.weight)?);
        let bias = op.bias.as_ref().map(|bias| self.launcher.stored(NAME, bias)).transpose()?;
        let y = self.launcher.write(NAME, &op.y)?;
        let product = Product {
            x,
            weight,
            bias,
            y: y.pointer + op.first_output as u64 * activation(NAME, y.dtype)?,
            rows: count(NAME, rows)?,
            outputs: count(NAME, outputs)?,
            inner: count(NAME, inner)?,
            columns: columns as u64,
        };
        if rows == 0 || outputs == 0 {
            return Ok(());
        }
        match &self.blas {
            Some(blas) if blas.takes(&product) && blas.product(&self.launcher, &product)? => Ok(()),
            _ => tiles(&self.launcher, &product),
        }
    }
}

/// A product by our own kernels.
fn tiles(launcher: &Launcher, of: &Product) -> Result<(), DeviceError> {
    let key = Key { program: &PROGRAM, act: of.x.dtype, weight: Some(of.weight.dtype) };
    let (name, tall, wide) = if of.rows <= LOW { ("linear_low", 16, 64) } else { ("linear_high", 128, 128) };
    let bias = of.bias.map_or((0, 0), |bias| (bias.pointer, bias.number));
    let blocks = [u64::from(of.rows).div_ceil(tall), u64::from(of.outputs).div_ceil(wide), 1];
    let args = [
        Arg::Pointer(of.x.pointer),
        Arg::Pointer(of.weight.pointer),
        Arg::Pointer(bias.0),
        Arg::Int(bias.1),
        Arg::Pointer(of.y),
        Arg::Int(of.rows),
        Arg::Int(of.outputs),
        Arg::Int(of.inner),
        Arg::Long(of.columns),
    ];
    launcher.launch(key, name, blocks, &args)
}
