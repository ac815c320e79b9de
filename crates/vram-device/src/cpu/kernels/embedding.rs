//! Rows of a table by their indices.

use std::marker::PhantomData;

use vram_types::DType;

use super::error::{KernelError, check_len};
use super::isa::{Body, Isa, dispatch};
use super::num::{Act, Elem, act_bytes, weight_bytes, with_act, with_weight};
use super::par::{self, Pool};

/// Row `i` of y [ids, width] becomes row `ids[i]` of the table [rows, width], rounded to `act`.
///
/// # Errors
/// If a dtype is not one for its place, a slice is too short, or an index is not below the rows of the table. Nothing is
/// written then.
pub fn gather_rows(
    isa: Isa,
    table: (&[u8], DType),
    width: usize,
    ids: &[u32],
    y: &mut [u8],
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let row = width.saturating_mul(act_bytes("act", act)?);
    let table_row = width.saturating_mul(weight_bytes("table", table.1)?);
    check_len("y", y.len(), &[ids.len(), row])?;
    if row == 0 {
        return Ok(());
    }
    let rows = table.0.len() / table_row;
    if let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) {
        return Err(KernelError::Index { what: "row of the table", index: id.into(), len: rows as u64 });
    }
    let y = &mut y[..ids.len() * row];
    let pool = par::worth(pool, y.len());
    with_act!(act, A => with_weight!(table.1, W => {
        par::for_each_block(pool, y, row, |i, y| {
            let source = &table.0[ids[i] as usize * table_row..][..table_row];
            dispatch(isa, Convert::<A, W> { source, y, types: PhantomData });
        });
    }));
    Ok(())
}

struct Convert<'a, A, W> {
    source: &'a [u8],
    y: &'a mut [u8],
    types: PhantomData<(A, W)>,
}

impl<A: Act, W: Elem> Body for Convert<'_, A, W> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, &w) in A::slice_mut(self.y).iter_mut().zip(W::slice(self.source)) {
            *y = A::put(W::get(w));
        }
    }
}
