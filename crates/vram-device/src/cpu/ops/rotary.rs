//! [`Rotary`]: rotated pairs of elements.

use std::marker::PhantomData;

use super::operand::{act, read, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::isa::{Body, dispatch};
use crate::cpu::num::{Act, Elem, F32, with_act};
use crate::cpu::par::{self, BLOCK};
use crate::ops::{Operation, Rotary, RotaryForm};

impl Cpu {
    pub(super) fn rotary(&self, op: Rotary<'_>) -> Result<(), DeviceError> {
        let (name, head_dim) = (op.name(), op.head_dim());
        let Rotary { form, table, heads: _, mut x } = op;
        let dtype = x.dtype();
        let (head, row) = (head_dim * act(name, dtype)?, x.shape().last() * act(name, dtype)?);
        let angles = table.shape().last() * F32::BYTES;
        let (table, x) = (read(name, &table)?, write(name, &mut x)?);
        if angles == 0 || row == 0 {
            return Ok(());
        }
        let rows = (BLOCK / row).max(1);
        let pool = par::worth(Some(&self.pool), x.len());
        with_act!(dtype, A => par::for_each_block(pool, x, rows * row, |i, x| {
            let table = &table[i * rows * angles..];
            dispatch(self.isa, Turn::<A> { form, table, angles, x, row, head, types: PhantomData });
        }));
        Ok(())
    }
}

/// Rows of `x`, and the rows of the table that belong to them; lengths in bytes.
struct Turn<'a, A> {
    form: RotaryForm,
    table: &'a [u8],
    angles: usize,
    x: &'a mut [u8],
    row: usize,
    head: usize,
    types: PhantomData<A>,
}

impl<A: Act> Body for Turn<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (x, angles) in self.x.chunks_exact_mut(self.row).zip(self.table.chunks_exact(self.angles)) {
            let angles = F32::slice(angles);
            let (cos, sin) = angles.split_at(angles.len() / 2);
            for head in x.chunks_exact_mut(self.head) {
                let turned = &mut A::slice_mut(head)[..angles.len()];
                match self.form {
                    RotaryForm::Halves => {
                        let (first, second) = turned.split_at_mut(cos.len());
                        for (((a, b), &cos), &sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                            (*a, *b) = turn::<A>((*a, *b), F32::get(cos), F32::get(sin));
                        }
                    }
                    RotaryForm::Interleaved => {
                        let pairs = turned.as_chunks_mut::<2>().0;
                        for (([a, b], &cos), &sin) in pairs.iter_mut().zip(cos).zip(sin) {
                            (*a, *b) = turn::<A>((*a, *b), F32::get(cos), F32::get(sin));
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turn<A: Act>((a, b): (A::Raw, A::Raw), cos: f32, sin: f32) -> (A::Raw, A::Raw) {
    let (a, b) = (A::get(a), A::get(b));
    (A::put(a * cos - b * sin), A::put(b * cos + a * sin))
}
