//! Casts between dtypes over byte slices, as PyTorch's `.to(dtype)` rounds.
//!
//! The floating-point types `F64`, `F32`, `F16`, `BF16` and the five fp8 types cast into one another; every other dtype
//! casts into itself only, which copies. Elements are little-endian, as files keep them, and neither slice need be
//! aligned to its elements.
//!
//! # Rounding
//! To nearest, ties to even, subnormals included. Every pair rounds as if through `f32`, `F64` into `F16` too: PyTorch's own
//! narrowing begins with `static_cast<float>`, and so rounds twice. Beyond the largest finite value:
//!
//! | to | overflow | infinity | NaN |
//! |---|---|---|---|
//! | `F32`, `F16`, `BF16`, `F8_E5M2` | infinity | infinity | NaN of the same sign |
//! | `F8_E4M3` | ±448 | ±448 | NaN of the same sign |
//! | `F8_E4M3FNUZ`, `F8_E5M2FNUZ` | NaN | NaN | NaN (there is one, and no negative zero) |
//! | `F8_E8M0` | NaN | NaN | NaN; the sign is dropped |
//!
//! NaNs stay NaNs; their payload may differ from PyTorch's, and is the same on every [`Isa`], so that a cast gives the
//! same bits on every machine and for every number of threads.
//!
//! ```
//! use vram_types::DType;
//! use vram_types::cast::{bf16_to_f32, cast};
//!
//! let src = 3.1415927f32.to_le_bytes();
//! let mut dst = [0; 2];
//! cast(&src, DType::F32, &mut dst, DType::BF16)?;
//! assert_eq!(bf16_to_f32(u16::from_le_bytes(dst)), 3.140625);
//! # Ok::<(), vram_types::TypeError>(())
//! ```

mod kernel;
mod scalar;

use rayon::prelude::*;

pub use kernel::Isa;
pub use scalar::{
    bf16_to_f32, f8_e4m3_to_bf16, f8_e4m3_to_f16, f8_e4m3_to_f32, f8_e4m3fnuz_to_f32, f8_e5m2_to_bf16,
    f8_e5m2_to_f16, f8_e5m2_to_f32, f8_e5m2fnuz_to_f32, f8_e8m0_to_f32, f16_to_f32, f32_to_bf16,
    f32_to_f8_e4m3, f32_to_f8_e4m3fnuz, f32_to_f8_e5m2, f32_to_f8_e5m2fnuz, f32_to_f8_e8m0, f32_to_f16,
};

use crate::{DType, TypeError};

/// Elements that one task of a parallel cast converts: long enough to hide the cost of a task, short enough to spread.
const TASK_ELEMENTS: usize = 64 * 1024;

/// Bytes read and written below which a second thread costs more than it brings.
const PARALLEL_BYTES: usize = 1 << 20;

/// Whether [`cast`] can turn `from` into `to`.
///
/// ```
/// use vram_types::{DType, cast::can_cast};
/// assert!(can_cast(DType::F8_E4M3, DType::BF16));
/// assert!(can_cast(DType::I64, DType::I64));
/// assert!(!can_cast(DType::I64, DType::F32));
/// ```
pub const fn can_cast(from: DType, to: DType) -> bool {
    kernel::is_castable(from) && kernel::is_castable(to) || from as u8 == to as u8
}

/// Casts every element of `src` into `dst`, on the current rayon pool where that is worth it.
///
/// Use [`cast_serial`] on threads that must not enter a rayon pool. Both give the same bits.
///
/// # Errors
/// [`TypeError::NoCast`] if [`can_cast`] says no, [`TypeError::Length`] if `src` is not a whole number of elements or
/// `dst` has not exactly room for them. `dst` is untouched then.
pub fn cast(src: &[u8], from: DType, dst: &mut [u8], to: DType) -> Result<(), TypeError> {
    check(src, from, dst, to)?;
    let isa = Isa::best();
    if src.len() + dst.len() < PARALLEL_BYTES || rayon::current_num_threads() == 1 {
        kernel::run(isa, src, from, dst, to);
        return Ok(());
    }
    let task =
        |d: DType| TASK_ELEMENTS / d.layout().block_elements as usize * d.layout().block_bytes as usize;
    src.par_chunks(task(from))
        .zip(dst.par_chunks_mut(task(to)))
        .for_each(|(src, dst)| kernel::run(isa, src, from, dst, to));
    Ok(())
}

/// [`cast`] on the calling thread alone.
///
/// # Errors
/// As [`cast`].
pub fn cast_serial(src: &[u8], from: DType, dst: &mut [u8], to: DType) -> Result<(), TypeError> {
    cast_serial_on(Isa::best(), src, from, dst, to)
}

/// [`cast_serial`] on a given instruction set, for tests and comparisons: the bits never depend on it.
///
/// # Errors
/// As [`cast`].
pub fn cast_serial_on(isa: Isa, src: &[u8], from: DType, dst: &mut [u8], to: DType) -> Result<(), TypeError> {
    check(src, from, dst, to)?;
    kernel::run(isa, src, from, dst, to);
    Ok(())
}

/// After this, both slices hold the same whole number of elements.
fn check(src: &[u8], from: DType, dst: &[u8], to: DType) -> Result<(), TypeError> {
    if !can_cast(from, to) {
        return Err(TypeError::NoCast { from, to });
    }
    let block = from.layout().block_bytes as usize;
    let blocks = src.len() / block;
    if !src.len().is_multiple_of(block) {
        return Err(TypeError::Length {
            what: "the source of a cast, which ends within an element,",
            expected: (blocks as u64 + 1).saturating_mul(block as u64),
            actual: src.len() as u64,
        });
    }
    // Only the identity has blocks of more than one element, and there both sides have the same.
    let expected = (blocks as u64).saturating_mul(u64::from(to.layout().block_bytes));
    if dst.len() as u64 != expected {
        return Err(TypeError::Length {
            what: "the destination of a cast",
            expected,
            actual: dst.len() as u64,
        });
    }
    Ok(())
}
