//! [`Kernels`]: shapes and dtypes checked, and the kernels called.

use super::Cuda;
use super::operand::{activation, vector};
use crate::{
    Activation, AttentionArgs, Binary, DeviceError, Kernels, LinearArgs, ScratchFor, View, ViewMut, checks,
};

impl Kernels for Cuda {
    /// None: inputs are read as they lie, and scores are never stored.
    fn scratch_bytes(&self, _: ScratchFor<'_>) -> u64 {
        0
    }

    fn linear_pack(&self, x: &View<'_>, packed: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear_pack";
        activation(NAME, x.dtype())?;
        self.context.pointer(NAME, x)?;
        self.context.pointer_mut(NAME, packed).map(drop)
    }

    fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        checks::linear("linear", args, y)?;
        self.context.linear(args, y)
    }

    fn rms_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "rms_norm";
        checks::same(NAME, x, y)?;
        vector(NAME, "the weight", weight, x.shape().last())?;
        self.context.rms_norm(x, weight, eps, y)
    }

    fn layer_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        bias: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "layer_norm";
        checks::same(NAME, x, y)?;
        vector(NAME, "the weight", weight, x.shape().last())?;
        vector(NAME, "the bias", bias, x.shape().last())?;
        self.context.layer_norm(x, weight, bias, eps, y)
    }

    fn activate(&self, f: Activation, x: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let function = match f {
            Activation::Gelu => 0,
            Activation::Silu => 1,
        };
        self.context.activate(function, x)
    }

    fn binary(&self, op: Binary, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        checks::same("binary", x, y)?;
        let op = match op {
            Binary::Add => 0,
            Binary::Mul => 1,
        };
        self.context.binary(op, x, y)
    }

    fn attention(
        &self,
        args: &AttentionArgs<'_>,
        scratch: &mut ViewMut<'_>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "attention";
        checks::attention(NAME, args, y)?;
        self.context.pointer_mut(NAME, scratch)?;
        self.context.attention(args, y)
    }

    fn gather(&self, table: &View<'_>, ids: &[u32], y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        checks::gather("gather", table, ids, y)?;
        self.context.gather(table, ids, y)
    }

    fn cast(&self, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        checks::cast("cast", x, y)?;
        self.context.cast(x, y)
    }
}
