//! `y = x W^T + b`, with W stored as [out, in] and read where it lies.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod blocked;
pub(crate) mod micro;
pub(crate) mod pack;
mod tile;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86;

use vram_types::DType;

use super::error::{KernelError, check_len};
use super::isa::{Isa, IsaKind};
use super::num::{act_bytes, weight_bytes, with_act, with_weight};
use super::par::{self, Pool, Shared};
use blocked::Blocked;

/// What [`linear`] computes on; the activations come packed by [`linear_pack`].
#[derive(Clone, Copy)]
pub struct LinearArgs<'a> {
    /// The scratch that [`linear_pack`] filled from x [m, k], for the same `isa`, `m`, `k` and `act`.
    pub packed: &'a [u8],
    /// Rows of x and of y.
    pub m: usize,
    /// Columns of x and of the weights.
    pub k: usize,
    /// Weights [n, k], dense, of any alignment: all rows of a layer or some.
    pub w: &'a [u8],
    /// Storage dtype of the weights.
    pub w_dtype: DType,
    /// Rows of the weights, which are columns of y.
    pub n: usize,
    /// One value per row of the weights.
    pub bias: Option<(&'a [u8], DType)>,
    /// Elements from one row of y to the next.
    pub ldy: usize,
    /// The column of y that the first row of the weights gives.
    pub n0: usize,
    /// Dtype of x, of the arithmetic, and of y.
    pub act: DType,
}

impl std::fmt::Debug for LinearArgs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "LinearArgs([{}, {}] {} x [{}, {}] {} -> columns {}.. of {})",
            self.m, self.k, self.act, self.n, self.k, self.w_dtype, self.n0, self.ldy
        )
    }
}

/// Whether that path computes in tiles of bf16 pairs.
fn uses_tiles(isa: Isa, act: DType) -> bool {
    isa.kind() == IsaKind::Amx && act == DType::BF16
}

/// Bytes of scratch that [`linear_pack`] fills for x [m, k]; saturates where they overflow.
pub fn linear_scratch_bytes(isa: Isa, m: usize, k: usize, act: DType) -> usize {
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
    } else {
        with_act!(act, A => pack::panels::<A>(isa, x, m, k, scratch, pool));
    }
    Ok(())
}

/// Writes columns `n0 .. n0 + n` of y [m, ldy]: x times the transposed weights, plus the bias.
///
/// Weights and bias that are not in `act` are rounded to it; the sum is in f32 and is rounded once, bias included.
/// On the AMX path subnormal bf16 inputs count as zero, as the hardware has it.
///
/// # Errors
/// If a dtype is not one for its place, a slice is too short for the shape, or `n0 + n` is more than `ldy`.
pub fn linear(isa: Isa, args: &LinearArgs<'_>, y: &mut [u8], pool: Pool<'_>) -> Result<(), KernelError> {
    let LinearArgs { m, k, n, act, .. } = *args;
    let act_size = act_bytes("act", act)?;
    check_len("packed x", args.packed.len(), &[linear_scratch_bytes(isa, m, k, act)])?;
    check_len("w", args.w.len(), &[n, k, weight_bytes("w", args.w_dtype)?])?;
    if let Some((bias, dtype)) = args.bias {
        check_len("bias", bias.len(), &[n, weight_bytes("bias", dtype)?])?;
    }
    if args.n0.checked_add(n).is_none_or(|end| end > args.ldy) {
        return Err(KernelError::Shape { what: "the columns of a linear layer do not fit the rows of y" });
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    // The last row may end with its last column.
    check_len("y", y.len().saturating_add((args.ldy - args.n0 - n) * act_size), &[m, args.ldy, act_size])?;
    let pool = par::worth(pool, args.w.len().saturating_add(m.saturating_mul(n).saturating_mul(k) / 64));
    let out = Shared::new(y);
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if uses_tiles(isa, act) {
        with_weight!(args.w_dtype, W => amx::run::<W>(isa, args, &out, pool));
        return Ok(());
    }
    with_act!(act, A => with_weight!(args.w_dtype, W => {
        let driver = Blocked::<A, W>::new(isa, args, &out);
        match isa.kind() {
            #[cfg(target_arch = "x86_64")]
            IsaKind::Amx | IsaKind::Avx512 => driver.run::<x86::Avx512>(pool),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => driver.run::<x86::Avx2>(pool),
            _ => driver.run::<micro::Portable>(pool),
        }
    }));
    Ok(())
}
