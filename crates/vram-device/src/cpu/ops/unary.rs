//! [`Unary`]: functions applied to every element, in place.

use std::marker::PhantomData;

use vram_types::DType;

use super::activation::{Function, with_function};
use super::operand::{refused, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::error::KernelError;
use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::{Act, act_bytes, with_act};
use crate::cpu::par::{self, BLOCK, Pool};
use crate::ops::{Operation, Unary, UnaryKind};

/// `y = f(y)` in f32, rounded to `act` once.
///
/// # Errors
/// If `act` is not a compute dtype.
pub fn unary(isa: Isa, kind: UnaryKind, y: &mut [u8], act: DType, pool: Pool<'_>) -> Result<(), KernelError> {
    act_bytes("act", act)?;
    let pool = par::worth(pool, y.len().saturating_mul(4)); // some forty instructions each
    with_function!(kind, F => with_act!(act, A => par::for_each_block(pool, y, BLOCK, |_, y| {
        dispatch(isa, Map::<A, F> { y, types: PhantomData });
    })));
    Ok(())
}

impl Cpu {
    pub(super) fn unary(&self, op: Unary<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let Unary { kind, mut x } = op;
        let (dtype, bytes) = (x.dtype(), write(name, &mut x)?);
        unary(self.isa, kind, bytes, dtype, Some(&self.pool)).map_err(|e| refused(name, e))
    }
}

struct Map<'a, A, F> {
    y: &'a mut [u8],
    types: PhantomData<(A, F)>,
}

impl<A: Act, F: Function> Body for Map<'_, A, F> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for y in A::slice_mut(self.y) {
            *y = A::put(F::apply::<FMA>(A::get(*y)));
        }
    }
}
