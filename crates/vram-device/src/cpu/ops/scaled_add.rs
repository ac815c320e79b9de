//! [`ScaledAdd`]: rows times a row, added to other rows.

use std::marker::PhantomData;

use super::operand::{act, read, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::isa::{Body, dispatch};
use crate::cpu::num::{Act, with_act};
use crate::cpu::par::{self, BLOCK};
use crate::ops::{Operation, ScaledAdd};

impl Cpu {
    pub(super) fn scaled_add(&self, op: ScaledAdd<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let ScaledAdd { x, gate, factor, mut y } = op;
        let dtype = y.dtype();
        act(name, dtype)?;
        let gate = gate.as_ref().map(|gate| read(name, gate)).transpose()?;
        let (x, y) = (read(name, &x)?, write(name, &mut y)?);
        let row = gate.map_or(BLOCK, <[u8]>::len).max(1);
        let block = row * (BLOCK / row).max(1);
        let pool = par::worth(Some(&self.pool), y.len());
        with_act!(dtype, A => par::for_each_block(pool, y, block, |i, y| {
            let x = &x[i * block..][..y.len()];
            dispatch(self.isa, AddScaled::<A> { x, gate, factor, y, row, types: PhantomData });
        }));
        Ok(())
    }
}

struct AddScaled<'a, A> {
    x: &'a [u8],
    gate: Option<&'a [u8]>,
    factor: f32,
    y: &'a mut [u8],
    row: usize,
    types: PhantomData<A>,
}

impl<A: Act> Body for AddScaled<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let factor = self.factor;
        let Some(gate) = self.gate.map(A::slice) else {
            for (y, &x) in A::slice_mut(self.y).iter_mut().zip(A::slice(self.x)) {
                *y = A::put(A::get(*y) + factor * A::get(x));
            }
            return;
        };
        for (y, x) in self.y.chunks_exact_mut(self.row).zip(self.x.chunks_exact(self.row)) {
            for ((y, &x), &gate) in A::slice_mut(y).iter_mut().zip(A::slice(x)).zip(gate) {
                *y = A::put(A::get(*y) + factor * A::get(gate) * A::get(x));
            }
        }
    }
}
