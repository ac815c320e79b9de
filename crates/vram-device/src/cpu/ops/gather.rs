//! [`Gather`]: rows of a table by index.

use std::marker::PhantomData;

use vram_types::{BlockType, DType, Encoding};

use super::operand::{read, refused, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::error::{KernelError, check_len};
use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::{Act, Elem, act_bytes, row_bytes, with_act, with_weight};
use crate::cpu::par::{self, Pool};
use crate::ops::{Gather, Operation};

/// Row `i` of y [ids, width] becomes row `ids[i]` of the table [rows, width], decoded if it is in blocks, and
/// rounded to `act`.
///
/// # Errors
/// If a dtype is not allowed in its place, a slice is too short, or an index is outside the table. Nothing is
/// written in that case.
pub fn gather_rows(
    isa: Isa,
    table: (&[u8], Encoding),
    width: usize,
    ids: &[u32],
    y: &mut [u8],
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let row = width.saturating_mul(act_bytes("act", act)?);
    let table_row = row_bytes("table", table.1, width)?;
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
    let source = |i: usize| &table.0[ids[i] as usize * table_row..][..table_row];
    with_act!(act, A => match table.1 {
        Encoding::Plain(dtype) => with_weight!(dtype, W => {
            par::for_each_block(pool, y, row, |i, y| {
                dispatch(isa, Convert::<A, W> { source: source(i), y, types: PhantomData });
            });
        }),
        Encoding::Blocks(block) => par::for_each_block(pool, y, row, |i, y| decode::<A>(isa, block, source(i), y)),
        encoding => return Err(KernelError::Encoding { what: "table", encoding }),
    });
    Ok(())
}

impl Cpu {
    pub(super) fn gather(&self, op: Gather<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let Gather { table, ids, mut y } = op;
        let width = y.shape().iter().skip(1).product();
        let (table, act) = ((read(name, &table)?, table.encoding()), y.dtype());
        gather_rows(self.isa, table, width, &ids, write(name, &mut y)?, act, Some(&self.pool))
            .map_err(|e| refused(name, e))
    }
}

/// Decodes whole blocks and rounds their values.
fn decode<A: Act>(isa: Isa, block: BlockType, source: &[u8], y: &mut [u8]) {
    let elements = block.block_elements() as usize;
    let mut values = [0f32; 256];
    let blocks = source.chunks_exact(block.block_bytes() as usize);
    for (source, y) in blocks.zip(y.chunks_exact_mut(elements * A::BYTES)) {
        let decoded = block.decode_f32(source, &mut values[..elements]);
        debug_assert_eq!(decoded, Ok(()), "one block");
        dispatch(isa, Round::<A> { values: &values[..elements], y, act: PhantomData });
    }
}

struct Round<'a, A> {
    values: &'a [f32],
    y: &'a mut [u8],
    act: PhantomData<A>,
}

impl<A: Act> Body for Round<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, &value) in A::slice_mut(self.y).iter_mut().zip(self.values) {
            *y = A::put(value);
        }
    }
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
