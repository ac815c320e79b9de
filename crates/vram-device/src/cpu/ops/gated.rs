//! [`Gated`]: a tensor times a function of another.

use std::marker::PhantomData;

use super::activation::{Function, with_function};
use super::operand::{act, read, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::isa::{Body, dispatch};
use crate::cpu::num::{Act, with_act};
use crate::cpu::par::{self, BLOCK};
use crate::ops::{Gated, Operation};

impl Cpu {
    pub(super) fn gated(&self, op: Gated<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let Gated { kind, gate, mut y } = op;
        let dtype = y.dtype();
        act(name, dtype)?;
        let (gate, y) = (read(name, &gate)?, write(name, &mut y)?);
        let pool = par::worth(Some(&self.pool), y.len().saturating_mul(4)); // some forty instructions each
        with_function!(kind, F => with_act!(dtype, A => par::for_each_block(pool, y, BLOCK, |i, y| {
            let gate = &gate[i * BLOCK..][..y.len()];
            dispatch(self.isa, Product::<A, F> { gate, y, types: PhantomData });
        })));
        Ok(())
    }
}

struct Product<'a, A, F> {
    gate: &'a [u8],
    y: &'a mut [u8],
    types: PhantomData<(A, F)>,
}

impl<A: Act, F: Function> Body for Product<'_, A, F> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, &gate) in A::slice_mut(self.y).iter_mut().zip(A::slice(self.gate)) {
            *y = A::put(F::apply::<FMA>(A::get(gate)) * A::get(*y));
        }
    }
}
