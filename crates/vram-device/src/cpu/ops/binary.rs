//! [`Binary`]: two tensors element by element, and a vector added to rows.

use std::marker::PhantomData;

use vram_types::DType;

use super::operand::{read, refused, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::error::{KernelError, check_len};
use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::{Act, Elem, act_bytes, weight_bytes, with_act, with_weight};
use crate::cpu::par::{self, BLOCK, Pool};
use crate::ops::{Binary, BinaryKind, Broadcast, Operation};

/// `y = x + y`, rounded to `act`.
///
/// # Errors
/// If `act` is not a compute dtype or the lengths differ.
pub fn add(isa: Isa, x: &[u8], y: &mut [u8], act: DType, pool: Pool<'_>) -> Result<(), KernelError> {
    binary::<Sum>(isa, x, y, act, pool)
}

/// `y = x * y`, rounded to `act`.
///
/// # Errors
/// If `act` is not a compute dtype or the lengths differ.
pub fn mul(isa: Isa, x: &[u8], y: &mut [u8], act: DType, pool: Pool<'_>) -> Result<(), KernelError> {
    binary::<Product>(isa, x, y, act, pool)
}

/// Adds a vector of `width` values, rounded to `act`, to every row of y [rows, width]; the sums are rounded to `act`.
///
/// # Errors
/// If a dtype is not allowed in its place, the vector is too short, or y does not consist of whole rows.
pub fn add_bias(
    isa: Isa,
    bias: (&[u8], DType),
    y: &mut [u8],
    width: usize,
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let row = width.saturating_mul(act_bytes("act", act)?);
    check_len("bias", bias.0.len(), &[width, weight_bytes("bias", bias.1)?])?;
    if row == 0 || !y.len().is_multiple_of(row) {
        return match y.len() {
            0 => Ok(()),
            _ => Err(KernelError::Shape { what: "y does not consist of whole rows" }),
        };
    }
    let pool = par::worth(pool, y.len());
    let block = row * (BLOCK / row).max(1);
    with_act!(act, A => with_weight!(bias.1, B => {
        par::for_each_block(pool, y, block, |_, y| {
            dispatch(isa, AddBias::<A, B> { bias: &bias.0[..width * B::BYTES], y, row, types: PhantomData });
        });
    }));
    Ok(())
}

impl Cpu {
    pub(super) fn binary(&self, op: Binary<'_>) -> Result<(), DeviceError> {
        let (name, broadcast) = (op.name(), op.broadcast()?);
        let Binary { kind, x, mut y } = op;
        let (act, width, pool) = (x.dtype(), y.shape().last(), Some(&*self.pool));
        let (from, to) = (read(name, &x)?, write(name, &mut y)?);
        match (broadcast, kind) {
            (Broadcast::Equal, BinaryKind::Add) => add(self.isa, from, to, act, pool),
            (Broadcast::Equal, BinaryKind::Mul) => mul(self.isa, from, to, act, pool),
            (spread, BinaryKind::Add) => rows::<Sum>(self.isa, from, spread, to, width, act, pool),
            (spread, BinaryKind::Mul) => rows::<Product>(self.isa, from, spread, to, width, act, pool),
        }
        .map_err(|e| refused(name, e))
    }
}

struct AddBias<'a, A, B> {
    bias: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    types: PhantomData<(A, B)>,
}

impl<A: Act, B: Elem> Body for AddBias<'_, A, B> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let bias = B::slice(self.bias);
        for row in self.y.chunks_exact_mut(self.row) {
            for (y, &b) in A::slice_mut(row).iter_mut().zip(bias) {
                *y = A::put(A::get(*y) + A::round(B::get(b)));
            }
        }
    }
}

/// A function of two elements.
trait Function {
    fn apply(x: f32, y: f32) -> f32;
}

struct Sum;
impl Function for Sum {
    #[inline(always)]
    fn apply(x: f32, y: f32) -> f32 {
        x + y
    }
}

struct Product;
impl Function for Product {
    #[inline(always)]
    fn apply(x: f32, y: f32) -> f32 {
        x * y
    }
}

fn binary<U: Function>(
    isa: Isa,
    x: &[u8],
    y: &mut [u8],
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    act_bytes("act", act)?;
    if x.len() != y.len() {
        return Err(KernelError::Length { what: "x", needed: y.len(), given: x.len() });
    }
    let pool = par::worth(pool, y.len());
    with_act!(act, A => par::for_each_block(pool, y, BLOCK, |i, y| {
        let x = &x[i * BLOCK..][..y.len()];
        dispatch(isa, Combine::<A, U> { x, y, types: PhantomData });
    }));
    Ok(())
}

struct Combine<'a, A, U> {
    x: &'a [u8],
    y: &'a mut [u8],
    types: PhantomData<(A, U)>,
}

impl<A: Act, U: Function> Body for Combine<'_, A, U> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, &x) in A::slice_mut(self.y).iter_mut().zip(A::slice(self.x)) {
            *y = A::put(U::apply(A::get(x), A::get(*y)));
        }
    }
}

/// With a single row, or one value for each row of `y`.
fn rows<U: Function>(
    isa: Isa,
    x: &[u8],
    spread: Broadcast,
    y: &mut [u8],
    width: usize,
    act: DType,
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    let size = act_bytes("act", act)?;
    let row = width.saturating_mul(size);
    if y.is_empty() || row == 0 {
        return Ok(());
    }
    let pool = par::worth(pool, y.len());
    let at_once = (BLOCK / row).max(1);
    with_act!(act, A => par::for_each_block(pool, y, at_once * row, |i, y| {
        let types = PhantomData;
        match spread {
            Broadcast::Column => {
                let x = &x[i * at_once * size..][..y.len() / width];
                dispatch(isa, CombineColumn::<A, U> { x, y, row, types });
            }
            _ => dispatch(isa, CombineRow::<A, U> { x, y, row, types }),
        }
    }));
    Ok(())
}

struct CombineRow<'a, A, U> {
    x: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    types: PhantomData<(A, U)>,
}

impl<A: Act, U: Function> Body for CombineRow<'_, A, U> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let x = A::slice(self.x);
        for row in self.y.chunks_exact_mut(self.row) {
            for (y, &x) in A::slice_mut(row).iter_mut().zip(x) {
                *y = A::put(U::apply(A::get(x), A::get(*y)));
            }
        }
    }
}

struct CombineColumn<'a, A, U> {
    x: &'a [u8],
    y: &'a mut [u8],
    row: usize,
    types: PhantomData<(A, U)>,
}

impl<A: Act, U: Function> Body for CombineColumn<'_, A, U> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (row, &x) in self.y.chunks_exact_mut(self.row).zip(A::slice(self.x)) {
            let x = A::get(x);
            for y in A::slice_mut(row) {
                *y = A::put(U::apply(x, A::get(*y)));
            }
        }
    }
}
