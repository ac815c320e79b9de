//! [`Kernels`] on the CPU: views resolved to slices, shapes checked, and the plain functions called.

use vram_types::DType;
use vram_types::cast::cast;

use super::Cpu;
use super::kernels::{self, KernelError};
use crate::{
    Activation, AttentionArgs, Binary, DeviceError, Kernels, LinearArgs, ScratchFor, View, ViewMut, checks,
};

impl Kernels for Cpu {
    fn scope(&self, forward: &mut (dyn FnMut() + Send)) {
        self.pool.install(forward);
    }

    fn scratch_bytes(&self, kernel: ScratchFor<'_>) -> u64 {
        let bytes = match kernel {
            ScratchFor::Linear { x } => {
                let (rows, inner) = (x.shape().rows(), x.shape().last());
                kernels::linear_scratch_bytes(self.isa, rows, inner, x.dtype())
            }
            ScratchFor::Attention { k, heads } => {
                let (tokens, width) = (k.shape().rows(), k.shape().last());
                kernels::attention_scratch_bytes(tokens, width / heads.max(1), Some(&self.pool))
            }
        };
        bytes as u64
    }

    fn linear_pack(&self, x: &View<'_>, packed: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        let (m, k) = (x.shape().rows(), x.shape().last());
        kernels::linear_pack(
            self.isa,
            read("linear_pack", x)?,
            m,
            k,
            x.dtype(),
            write("linear_pack", packed)?,
            Some(&self.pool),
        )
        .map_err(|e| refused("linear_pack", e))
    }

    fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear";
        let (m, k) = (args.x.shape().rows(), args.x.shape().last());
        let n = checks::linear(NAME, args, y)?;
        let bias = match &args.bias {
            Some(bias) => Some((read(NAME, bias)?, bias.dtype())),
            None => None,
        };
        let call = kernels::LinearArgs {
            packed: read(NAME, &args.packed)?,
            m,
            k,
            w: read(NAME, &args.weight)?,
            w_dtype: args.weight.dtype(),
            n,
            bias,
            ldy: y.shape().last(),
            n0: args.first_output,
            act: args.x.dtype(),
        };
        kernels::linear(self.isa, &call, write(NAME, y)?, Some(&self.pool)).map_err(|e| refused(NAME, e))
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
        let width = x.shape().last();
        let weight = vector(NAME, "the weight", weight, width)?;
        kernels::rms_norm(
            self.isa,
            read(NAME, x)?,
            width,
            weight,
            eps,
            write(NAME, y)?,
            x.dtype(),
            Some(&self.pool),
        )
        .map_err(|e| refused(NAME, e))
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
        let width = x.shape().last();
        let weight = vector(NAME, "the weight", weight, width)?;
        let bias = vector(NAME, "the bias", bias, width)?;
        kernels::layer_norm(
            self.isa,
            read(NAME, x)?,
            width,
            weight,
            bias,
            eps,
            write(NAME, y)?,
            x.dtype(),
            Some(&self.pool),
        )
        .map_err(|e| refused(NAME, e))
    }

    fn activate(&self, f: Activation, x: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "activate";
        let (dtype, bytes) = (x.dtype(), write(NAME, x)?);
        match f {
            Activation::Gelu => kernels::gelu(self.isa, bytes, dtype, Some(&self.pool)),
            Activation::Silu => kernels::silu(self.isa, bytes, dtype, Some(&self.pool)),
        }
        .map_err(|e| refused(NAME, e))
    }

    fn binary(&self, op: Binary, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "binary";
        checks::same(NAME, x, y)?;
        let (from, to) = (read(NAME, x)?, write(NAME, y)?);
        match op {
            Binary::Add => kernels::add(self.isa, from, to, x.dtype(), Some(&self.pool)),
            Binary::Mul => kernels::mul(self.isa, from, to, x.dtype(), Some(&self.pool)),
        }
        .map_err(|e| refused(NAME, e))
    }

    fn attention(
        &self,
        args: &AttentionArgs<'_>,
        scratch: &mut ViewMut<'_>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "attention";
        checks::attention(NAME, args, y)?;
        let width = args.q.shape().last();
        let call = kernels::AttentionArgs {
            q: read(NAME, &args.q)?,
            q_stride: width,
            k: read(NAME, &args.k)?,
            k_stride: width,
            v: read(NAME, &args.v)?,
            v_stride: width,
            queries: args.q.shape().rows(),
            keys: args.k.shape().rows(),
            heads: args.heads,
            kv_heads: args.heads,
            head_dim: width / args.heads,
            scale: args.scale,
            valid: None,
            causal: None,
            out_stride: width,
            act: args.q.dtype(),
        };
        kernels::attention(self.isa, &call, write(NAME, scratch)?, write(NAME, y)?, Some(&self.pool))
            .map_err(|e| refused(NAME, e))
    }

    fn gather(&self, table: &View<'_>, ids: &[u32], y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "gather";
        checks::gather(NAME, table, ids, y)?;
        let width = y.shape().iter().skip(1).product();
        let act = y.dtype();
        let table = (read(NAME, table)?, table.dtype());
        kernels::gather_rows(self.isa, table, width, ids, write(NAME, y)?, act, Some(&self.pool))
            .map_err(|e| refused(NAME, e))
    }

    fn cast(&self, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "cast";
        checks::cast(NAME, x, y)?;
        let to = y.dtype();
        let (src, dst) = (read(NAME, x)?, write(NAME, y)?);
        Ok(self.pool.install(|| cast(src, x.dtype(), dst, to))?)
    }
}

fn read<'a>(kernel: &'static str, view: &View<'a>) -> Result<&'a [u8], DeviceError> {
    view.bytes().ok_or_else(|| foreign(kernel))
}

fn write<'a>(kernel: &'static str, view: &'a mut ViewMut<'_>) -> Result<&'a mut [u8], DeviceError> {
    view.bytes().ok_or_else(|| foreign(kernel))
}

fn foreign(kernel: &'static str) -> DeviceError {
    DeviceError::shape(kernel, "the memory is of another device")
}

fn vector<'a>(
    kernel: &'static str,
    what: &str,
    view: &View<'a>,
    width: usize,
) -> Result<(&'a [u8], DType), DeviceError> {
    checks::vector(kernel, what, view, width)?;
    Ok((read(kernel, view)?, view.dtype()))
}

fn refused(kernel: &'static str, e: KernelError) -> DeviceError {
    match e {
        KernelError::DType { dtype, .. } => DeviceError::DType { kernel, dtype },
        KernelError::Index { what, index, len } => {
            DeviceError::OutOfRange { what, offset: index, bytes: 1, available: len }
        }
        other => DeviceError::shape(kernel, other.to_string()),
    }
}
