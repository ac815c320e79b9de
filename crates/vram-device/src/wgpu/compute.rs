//! [`Kernels`]: shapes and dtypes checked, and the kernels called.

use super::Wgpu;
use super::operand::{activation, stored, vector};
use super::pipeline::Kind;
use crate::{
    Activation, AttentionArgs, Binary, DeviceError, Kernels, LinearArgs, ScratchFor, View, ViewMut, checks,
};

impl Kernels for Wgpu {
    fn scratch_bytes(&self, kernel: ScratchFor<'_>) -> u64 {
        match kernel {
            // The input is read as it lies.
            ScratchFor::Linear { .. } => 0,
            ScratchFor::Attention { k, heads } => {
                let keys = k.shape().rows() as u64;
                self.context.queries_at_once(keys, heads as u64) * keys * heads as u64 * 4
            }
        }
    }

    fn linear_pack(&self, x: &View<'_>, packed: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear_pack";
        activation(NAME, x.dtype())?;
        self.context.read(NAME, x)?;
        self.context.write(NAME, packed).map(drop)
    }

    fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear";
        checks::linear(NAME, args, y)?;
        if let Some(bias) = &args.bias {
            stored(NAME, bias.dtype())?;
        }
        activation(NAME, y.dtype())?;
        stored(NAME, args.weight.dtype())?;
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
        self.context.norm((NAME, Kind::RmsNorm), x, &[weight], eps, y)
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
        self.context.norm((NAME, Kind::LayerNorm), x, &[weight, bias], eps, y)
    }

    fn activate(&self, f: Activation, x: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let kind = match f {
            Activation::Gelu => Kind::Gelu,
            Activation::Silu => Kind::Silu,
        };
        self.context.elements(("activate", kind), None, x)
    }

    fn binary(&self, op: Binary, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "binary";
        checks::same(NAME, x, y)?;
        let kind = match op {
            Binary::Add => Kind::Add,
            Binary::Mul => Kind::Mul,
        };
        self.context.elements((NAME, kind), Some(x), y)
    }

    fn attention(
        &self,
        args: &AttentionArgs<'_>,
        scratch: &mut ViewMut<'_>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "attention";
        checks::attention(NAME, args, y)?;
        let needed = self.scratch_bytes(ScratchFor::Attention { k: args.k.meta(), heads: args.heads });
        if scratch.meta().bytes() < needed {
            let what = format!("{} bytes of scratch where {needed} are needed", scratch.meta().bytes());
            return Err(DeviceError::shape(NAME, what));
        }
        self.context.attention(args, scratch, y)
    }

    fn gather(&self, table: &View<'_>, ids: &[u32], y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "gather";
        checks::gather(NAME, table, ids, y)?;
        self.context.gather(table, ids, y)
    }

    fn cast(&self, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "cast";
        checks::cast(NAME, x, y)?;
        self.context.elements((NAME, Kind::Cast), Some(x), y)
    }
}
