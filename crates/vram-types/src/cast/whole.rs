//! Casts of all that is there.

use rayon::prelude::*;

use super::kernel::{self, Isa};
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
