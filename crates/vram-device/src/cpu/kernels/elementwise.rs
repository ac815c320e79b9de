//! Functions applied to every element, in place.

use std::marker::PhantomData;

use vram_types::DType;

use super::error::{KernelError, check_len};
use super::isa::{Body, Isa, dispatch};
use super::math;
use super::num::{Act, Elem, act_bytes, weight_bytes, with_act, with_weight};
use super::par::{self, Pool};

/// Bytes that a task works on.
const BLOCK: usize = 16 << 10;

/// Exact (erf) GELU: `y = x (1 + erf(x / sqrt 2)) / 2` in f32, rounded to `act` once.
///
/// # Errors
/// If `act` is not a compute dtype.
pub fn gelu(isa: Isa, y: &mut [u8], act: DType, pool: Pool<'_>) -> Result<(), KernelError> {
    unary::<Gelu>(isa, y, act, pool)
}

/// `y = x / (1 + exp(-x))` in f32, rounded to `act` once.
///
/// # Errors
/// If `act` is not a compute dtype.
pub fn silu(isa: Isa, y: &mut [u8], act: DType, pool: Pool<'_>) -> Result<(), KernelError> {
    unary::<Silu>(isa, y, act, pool)
}

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
/// If a dtype is not one for its place, the vector is too short, or y does not consist of whole rows.
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

trait Unary {
    fn apply<const FMA: bool>(x: f32) -> f32;
}

struct Gelu;
impl Unary for Gelu {
    #[inline(always)]
    fn apply<const FMA: bool>(x: f32) -> f32 {
        math::gelu::<FMA>(x)
    }
}

struct Silu;
impl Unary for Silu {
    #[inline(always)]
    fn apply<const FMA: bool>(x: f32) -> f32 {
        math::silu::<FMA>(x)
    }
}

fn unary<U: Unary>(isa: Isa, y: &mut [u8], act: DType, pool: Pool<'_>) -> Result<(), KernelError> {
    act_bytes("act", act)?;
    let pool = par::worth(pool, y.len().saturating_mul(4)); // some forty instructions each
    with_act!(act, A => par::for_each_block(pool, y, BLOCK, |_, y| {
        dispatch(isa, Map::<A, U> { y, types: PhantomData });
    }));
    Ok(())
}

struct Map<'a, A, U> {
    y: &'a mut [u8],
    types: PhantomData<(A, U)>,
}

impl<A: Act, U: Unary> Body for Map<'_, A, U> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for y in A::slice_mut(self.y) {
            *y = A::put(U::apply::<FMA>(A::get(*y)));
        }
    }
}

trait Binary {
    fn apply(x: f32, y: f32) -> f32;
}

struct Sum;
impl Binary for Sum {
    #[inline(always)]
    fn apply(x: f32, y: f32) -> f32 {
        x + y
    }
}

struct Product;
impl Binary for Product {
    #[inline(always)]
    fn apply(x: f32, y: f32) -> f32 {
        x * y
    }
}

fn binary<U: Binary>(
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

impl<A: Act, U: Binary> Body for Combine<'_, A, U> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        for (y, &x) in A::slice_mut(self.y).iter_mut().zip(A::slice(self.x)) {
            *y = A::put(U::apply(A::get(x), A::get(*y)));
        }
    }
}
