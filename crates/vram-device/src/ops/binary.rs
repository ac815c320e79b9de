//! Two tensors combined element by element.

use super::operation::{Operation, operation, parameters};
use crate::{DeviceError, View, ViewMut};

/// Functions of two elements, computed in f32 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BinaryKind {
    /// `y + x`.
    Add,
    /// `y * x`.
    Mul,
}

parameters!(BinaryKind);

/// Which elements of the first operand of [`Binary`] are combined with those of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Broadcast {
    /// `x` has the shape of `y`.
    Equal,
    /// `x` is one row, `[width]` or `[1, width]`, applied to every row of `y`.
    Row,
    /// `x` is a column, `[rows, 1]`, with one value for each row of `y`.
    Column,
}

operation! {
    /// `y = f(y, x)`, in place; `x` is of the shape of `y`, or one row for every row of `y`, or a column with
    /// one value for each row of `y`.
    pub struct Binary<'a> {
        /// Which function.
        pub kind: BinaryKind,
        /// A tensor in the compute dtype: of the shape of `y`, or `[width]` or `[1, width]`, or `[rows, 1]`.
        pub x: View<'a>,
        /// The other operand and the result, `[.., width]` in the dtype of `x`.
        pub y: ViewMut<'a>,
    }
}

impl<'a> Binary<'a> {
    /// Any function of [`BinaryKind`].
    pub fn new(kind: BinaryKind, x: View<'a>, y: ViewMut<'a>) -> Binary<'a> {
        Binary { kind, x, y }
    }

    /// `y = y + x`.
    pub fn add(x: View<'a>, y: ViewMut<'a>) -> Binary<'a> {
        Binary::new(BinaryKind::Add, x, y)
    }

    /// `y = y * x`.
    pub fn mul(x: View<'a>, y: ViewMut<'a>) -> Binary<'a> {
        Binary::new(BinaryKind::Mul, x, y)
    }

    /// How the shapes are broadcast.
    ///
    /// # Errors
    /// [`DeviceError::Shape`] if they do not.
    pub fn broadcast(&self) -> Result<Broadcast, DeviceError> {
        let (x, y) = (self.x.meta(), self.y.meta());
        let (rows, width) = (y.shape().rows(), y.shape().last());
        if x.dtype() == y.dtype() {
            match x.shape().dims() {
                dims if dims == y.shape().dims() => return Ok(Broadcast::Equal),
                [n] | [1, n] if *n == width => return Ok(Broadcast::Row),
                [n, 1] if *n == rows => return Ok(Broadcast::Column),
                _ => {}
            }
        }
        let what = format!("x is {} {} and y is {} {}", x.dtype(), x.shape(), y.dtype(), y.shape());
        Err(DeviceError::shape(self.name(), what))
    }
}

impl Operation for Binary<'_> {
    fn name(&self) -> &'static str {
        "binary"
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.broadcast().map(drop)
    }

    fn flops(&self) -> u64 {
        self.y.meta().elements()
    }

    fn bytes_read(&self) -> u64 {
        self.x.meta().bytes().saturating_add(self.y.meta().bytes())
    }
}
