//! [`Linear`]: `y = x W^T + b`, with W stored as [out, in] and read where it lies.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod args;
mod blocked;
mod few;
pub(crate) mod micro;
pub(crate) mod pack;
mod q8;
#[cfg(target_arch = "x86_64")]
mod quants;
#[cfg(target_arch = "x86_64")]
mod quants_x86;
mod tile;
#[cfg(target_arch = "x86_64")]
mod transpose;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use std::marker::PhantomData;

use vram_types::{BlockType, DType, Encoding};

pub use args::LinearArgs;
use blocked::Blocked;
use few::Few;
use tile::{Decoded, Plain};

use super::operand::{read, refused, room, stored, write};
use super::scaled::{Scaled, scale_args};
use crate::cpu::Cpu;
use crate::cpu::error::{KernelError, check_len};
use crate::cpu::isa::{Isa, IsaKind};
use crate::cpu::num::{Act, act_bytes, row_bytes, weight_bytes, with_act, with_weight};
use crate::cpu::par::{self, Pool, Shared};
use crate::ops::{Linear, Operation};
use crate::{DeviceError, ViewMut};

/// Whether that path computes in tiles of bf16 pairs.
fn uses_tiles(isa: Isa, act: DType) -> bool {
    isa.kind() == IsaKind::Amx && act == DType::BF16
}

/// Whether there are so few rows of x that lanes run along the rows of W.
fn few_rows(isa: Isa, m: usize, act: DType) -> bool {
    (1..=few::FEW).contains(&m) && !uses_tiles(isa, act)
}

/// Bytes of scratch that [`linear_pack`] fills for x [m, k]; saturates where they overflow.
pub fn linear_scratch_bytes(isa: Isa, m: usize, k: usize, act: DType) -> usize {
    if few_rows(isa, m, act) {
        return few::padded(m).saturating_mul(k).saturating_mul(4);
    }
    let rows = m.div_ceil(pack::PANEL).saturating_mul(pack::PANEL);
    if uses_tiles(isa, act) {
        rows.saturating_mul(k.div_ceil(pack::TILE_K)).saturating_mul(pack::TILE_K * 2)
    } else {
        rows.saturating_mul(k).saturating_mul(4)
    }
}

/// Lays x [m, k] out in `scratch` as the kernels read it, once for all the pieces of a weight that is split along its rows.
///
/// # Errors
/// If `act` is not a compute dtype or a slice is too short for the shape.
pub fn linear_pack(
    isa: Isa,
    x: &[u8],
    m: usize,
    k: usize,
    act: DType,
    scratch: &mut [u8],
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    check_len("x", x.len(), &[m, k, act_bytes("act", act)?])?;
    let needed = linear_scratch_bytes(isa, m, k, act);
    check_len("linear scratch", scratch.len(), &[needed])?;
    let scratch = &mut scratch[..needed];
    if m == 0 || k == 0 {
        return Ok(());
    }
    let pool = par::worth(pool, needed);
    if uses_tiles(isa, act) {
        pack::pairs(isa, x, m, k, scratch, pool);
    } else if few_rows(isa, m, act) {
        with_act!(act, A => few::pack::<A>(isa, x, m, k, scratch));
    } else {
        with_act!(act, A => pack::panels::<A>(isa, x, m, k, scratch, pool));
    }
    Ok(())
}

/// Writes columns `n0 .. n0 + n` of y [m, ldy]: x times the transposed weights, plus the bias.
///
/// Weights and bias that are not in `act` are rounded to it, quantised blocks and numbers with scales once they are decoded;
/// the sum is in f32 and is rounded once, bias included.
/// On the AMX path subnormal bf16 inputs count as zero, as the hardware has it.
///
/// # Errors
/// If a dtype is not one for its place, a slice is too short for the shape, rows of the weights are no whole blocks, or
/// `n0 + n` is more than `ldy`.
pub fn linear(isa: Isa, args: &LinearArgs<'_>, y: &mut [u8], pool: Pool<'_>) -> Result<(), KernelError> {
    let LinearArgs { m, k, n, act, .. } = *args;
    let act_size = act_bytes("act", act)?;
    check_len("packed x", args.packed.len(), &[linear_scratch_bytes(isa, m, k, act)])?;
    check_len("w", args.w.len(), &[n, row_bytes("w", args.w_encoding, k)?])?;
    check_output(args, y.len(), act_size)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let pool = par::worth(pool, args.w.len().saturating_add(m.saturating_mul(n).saturating_mul(k) / 64));
    let out = Shared::new(y);
    let w = args.w_encoding;
    let scaled = scaled(args)?;
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if uses_tiles(isa, act) {
        match w {
            Encoding::Plain(dtype) => with_weight!(dtype, W => {
                amx::run(isa, args, Plain::<W>(PhantomData), &out, pool);
            }),
            Encoding::Blocks(block) => amx::run(isa, args, Decoded(block), &out, pool),
            encoding => match &scaled {
                Some(scaled) => amx::run(isa, args, Decoded(scaled), &out, pool),
                None => return Err(KernelError::Encoding { what: "w", encoding }),
            },
        }
        return Ok(());
    }
    with_act!(act, A => match w {
        Encoding::Plain(dtype) => with_weight!(dtype, W => {
            untiled::<A, _>(isa, args, Plain::<W>(PhantomData), &out, pool);
        }),
        Encoding::Blocks(block) => untiled::<A, _>(isa, args, Decoded(block), &out, pool),
        encoding => match &scaled {
            Some(scaled) => untiled::<A, _>(isa, args, Decoded(scaled), &out, pool),
            None => return Err(KernelError::Encoding { what: "w", encoding }),
        },
    });
    Ok(())
}

/// Whether a product's bias and columns of y are there.
fn check_output(args: &LinearArgs<'_>, y: usize, act_size: usize) -> Result<(), KernelError> {
    let LinearArgs { m, n, n0, ldy, .. } = *args;
    if let Some((bias, dtype)) = args.bias {
        check_len("bias", bias.len(), &[n, weight_bytes("bias", dtype)?])?;
    }
    if n0.checked_add(n).is_none_or(|end| end > ldy) {
        return Err(KernelError::Shape { what: "the columns of a linear layer do not fit the rows of y" });
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    // The last row may end with its last column.
    check_len("y", y.saturating_add((ldy - n0 - n) * act_size), &[m, ldy, act_size])
}

/// The numbers and scales of a weight that has scales.
fn scaled<'a>(args: &LinearArgs<'a>) -> Result<Option<Scaled<'a>>, KernelError> {
    match (args.w_encoding, args.scales) {
        (Encoding::Scaled(dtype), Some(scales)) => {
            Scaled::new((args.w, dtype), scales, [args.n, args.k]).map(Some)
        }
        (Encoding::Scaled(_), None) => Err(KernelError::Shape { what: "a weight with scales has none" }),
        (_, Some(_)) => Err(KernelError::Shape { what: "a weight without scales has some" }),
        (_, None) => Ok(None),
    }
}

fn untiled<A: Act, S: Few>(isa: Isa, args: &LinearArgs<'_>, source: S, y: &Shared<'_, u8>, pool: Pool<'_>) {
    if few_rows(isa, args.m, args.act) {
        return few::run::<A, S>(isa, args, source, y, pool);
    }
    let driver = Blocked::<A, S>::new(isa, args, source, y);
    match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Amx | IsaKind::Avx512 => driver.run::<x86::Avx512>(pool),
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => driver.run::<x86::Avx2>(pool),
        _ => driver.run::<micro::Portable>(pool),
    }
}

/// The blocks of the weight, if x is rounded to 8 bits for them.
fn q8_block(op: &Linear<'_>) -> Option<BlockType> {
    match op.weight.encoding() {
        Encoding::Blocks(block) if op.activations.applies_to(Encoding::Blocks(block)) => Some(block),
        _ => None,
    }
}

impl Cpu {
    pub(in crate::cpu) fn linear_scratch(&self, op: &Linear<'_>) -> u64 {
        let (rows, inner) = (op.x.shape().rows(), op.x.shape().last());
        let exact = linear_scratch_bytes(self.isa, rows, inner, op.x.dtype());
        match q8_block(op) {
            // At least as much as exact activations take, so that passes are laid out alike with both.
            Some(_) => q8::scratch_bytes(rows, inner).max(exact) as u64,
            None => exact as u64,
        }
    }

    pub(in crate::cpu) fn linear(
        &self,
        op: Linear<'_>,
        scratch: Option<&mut ViewMut<'_>>,
    ) -> Result<(), DeviceError> {
        let (name, block) = (op.name(), q8_block(&op));
        let Linear { x, weight, bias, first_output, packed, mut y, .. } = op;
        let (m, k, act) = (x.shape().rows(), x.shape().last(), x.dtype());
        let scratch = room(name, scratch)?;
        if !packed {
            let (x, pool): (_, Pool<'_>) = (read(name, &x)?, Some(&self.pool));
            match block {
                Some(block) => q8::pack(self.isa, block, (x, m, k, act), scratch, pool),
                None => linear_pack(self.isa, x, m, k, act, scratch, pool),
            }
            .map_err(|e| refused(name, e))?;
        }
        let args = LinearArgs {
            packed: scratch,
            m,
            k,
            w: read(name, &weight)?,
            w_encoding: weight.encoding(),
            scales: scale_args(name, &weight)?,
            n: weight.shape().rows(),
            bias: bias.as_ref().map(|bias| stored(name, bias)).transpose()?,
            ldy: y.shape().last(),
            n0: first_output,
            act,
        };
        let (y, pool): (_, Pool<'_>) = (write(name, &mut y)?, Some(&self.pool));
        match block {
            Some(block) => q8::linear(self.isa, block, &args, y, pool),
            None => linear(self.isa, &args, y, pool),
        }
        .map_err(|e| refused(name, e))
    }
}
