//! [`Modulate`]: rows scaled and shifted by a row.

use std::marker::PhantomData;

use super::operand::{act, read, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::isa::{Body, dispatch};
use crate::cpu::num::{Act, with_act};
use crate::cpu::par::{self, BLOCK};
use crate::ops::{Modulate, Operation};

impl Cpu {
    pub(super) fn modulate(&self, op: Modulate<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let Modulate { x, scale, shift, mut y } = op;
        let dtype = y.dtype();
        act(name, dtype)?;
        let (x, scale, shift) = (read(name, &x)?, read(name, &scale)?, read(name, &shift)?);
        let y = write(name, &mut y)?;
        let row = scale.len().max(1);
        let block = row * (BLOCK / row).max(1);
        let pool = par::worth(Some(&self.pool), y.len());
        with_act!(dtype, A => par::for_each_block(pool, y, block, |i, y| {
            let x = &x[i * block..][..y.len()];
            dispatch(self.isa, Affine::<A> { x, scale, shift, y, row, types: PhantomData });
        }));
        Ok(())
    }
}

struct Affine<'a, A> {
    x: &'a [u8],
    scale: &'a [u8],
    shift: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    types: PhantomData<A>,
}

impl<A: Act> Body for Affine<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (scale, shift) = (A::slice(self.scale), A::slice(self.shift));
        for (y, x) in self.y.chunks_exact_mut(self.row).zip(self.x.chunks_exact(self.row)) {
            let (y, x) = (A::slice_mut(y), A::slice(x));
            for (((y, &x), &scale), &shift) in y.iter_mut().zip(x).zip(scale).zip(shift) {
                *y = A::put(A::get(x) * (1.0 + A::get(scale)) + A::get(shift));
            }
        }
    }
}
