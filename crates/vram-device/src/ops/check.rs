//! Checks that several operations share.

use vram_types::{Shape, TensorMeta};

use super::operation::Operation;
use crate::{DeviceError, View};

/// No operand is encoded except the one that the operation decodes.
pub(super) fn plain(op: &impl Operation) -> Result<(), DeviceError> {
    let decoded = op.decoded();
    let mut result = Ok(());
    op.reads(&mut |view| {
        if view.is_encoded() && !decoded.is_some_and(|decoded| std::ptr::eq(decoded, view)) {
            let (shape, encoding) = (view.shape(), view.encoding());
            let what = format!("an operand {shape} is {encoding}, and has to be decoded first");
            result = Err(DeviceError::shape(op.name(), what));
        }
    });
    result
}

/// The result has the dtype and the shape of the input.
pub(super) fn same(op: &'static str, x: &TensorMeta, y: &TensorMeta) -> Result<(), DeviceError> {
    if x.shape() != y.shape() || x.dtype() != y.dtype() {
        return Err(DeviceError::shape(
            op,
            format!("x is {} {} and y is {} {}", x.dtype(), x.shape(), y.dtype(), y.shape()),
        ));
    }
    Ok(())
}

/// A weight or a bias of `width` elements.
pub(super) fn vector(op: &'static str, what: &str, view: &View<'_>, width: usize) -> Result<(), DeviceError> {
    if view.shape().dims() != [width] {
        return Err(DeviceError::mismatch(op, what, &Shape::from([width]), view.shape()));
    }
    Ok(())
}

/// One row `[width]` or `[1, width]`, applied to every row of an activation, in its dtype.
pub(super) fn row(
    op: &'static str,
    what: &str,
    view: &View<'_>,
    like: &TensorMeta,
) -> Result<(), DeviceError> {
    let width = like.shape().last();
    let fits = matches!(view.shape().dims(), [n] | [1, n] if *n == width);
    if !fits || view.dtype() != like.dtype() {
        let (is, dtype) = (view.shape(), view.dtype());
        let what = format!("{what} is {dtype} {is} where {} [{width}] is needed", like.dtype());
        return Err(DeviceError::shape(op, what));
    }
    Ok(())
}
