//! What every backend's kernels ask of the shapes and dtypes that they are given.

use vram_types::Shape;

use crate::{AttentionArgs, DeviceError, LinearArgs, View, ViewMut};

/// The result is as large as the input and of its dtype.
pub(crate) fn same(kernel: &'static str, x: &View<'_>, y: &ViewMut<'_>) -> Result<(), DeviceError> {
    if x.shape() != y.shape() || x.dtype() != y.dtype() {
        return Err(DeviceError::shape(
            kernel,
            format!("x is {} {} and y is {} {}", x.dtype(), x.shape(), y.dtype(), y.shape()),
        ));
    }
    Ok(())
}

/// A weight or a bias of so many elements.
pub(crate) fn vector(
    kernel: &'static str,
    what: &str,
    view: &View<'_>,
    width: usize,
) -> Result<(), DeviceError> {
    if view.shape().dims() != [width] {
        return Err(DeviceError::mismatch(kernel, what, &Shape::from([width]), view.shape()));
    }
    Ok(())
}

/// The number of the weight's outputs, which fit the columns of `y`.
pub(crate) fn linear(
    kernel: &'static str,
    args: &LinearArgs<'_>,
    y: &ViewMut<'_>,
) -> Result<usize, DeviceError> {
    let refused = |what: String| Err(DeviceError::shape(kernel, what));
    let (rows, inner) = (args.x.shape().rows(), args.x.shape().last());
    let &[outputs, inputs] = args.weight.shape().dims() else {
        return refused(format!("a weight of shape {} is no matrix", args.weight.shape()));
    };
    if inputs != inner {
        return refused(format!("a weight of {inputs} inputs is given {inner}"));
    }
    if y.shape().rows() != rows || y.dtype() != args.x.dtype() {
        let (is, dtype) = (y.shape(), y.dtype());
        return refused(format!("y is {dtype} {is} where {rows} rows of {} are needed", args.x.dtype()));
    }
    let columns = y.shape().last();
    if args.first_output.checked_add(outputs).is_none_or(|end| end > columns) {
        return refused(format!(
            "{outputs} outputs from {} on do not fit {columns} columns",
            args.first_output
        ));
    }
    if let Some(bias) = &args.bias {
        vector(kernel, "the bias", bias, outputs)?;
    }
    Ok(outputs)
}

/// Keys and values go together, and the width of all three divides into heads.
pub(crate) fn attention(
    kernel: &'static str,
    args: &AttentionArgs<'_>,
    y: &ViewMut<'_>,
) -> Result<(), DeviceError> {
    same(kernel, &args.q, y)?;
    let width = args.q.shape().last();
    for (what, view) in [("k", &args.k), ("v", &args.v)] {
        if view.shape().last() != width || view.dtype() != args.q.dtype() {
            return Err(DeviceError::mismatch(kernel, what, args.q.shape(), view.shape()));
        }
    }
    if args.k.shape() != args.v.shape() {
        return Err(DeviceError::mismatch(kernel, "v", args.k.shape(), args.v.shape()));
    }
    if args.heads == 0 || !width.is_multiple_of(args.heads) {
        let what = format!("a width of {width} does not divide into {} heads", args.heads);
        return Err(DeviceError::shape(kernel, what));
    }
    Ok(())
}

/// The result has a row of the table for each id, and the table has these rows.
pub(crate) fn gather(
    kernel: &'static str,
    table: &View<'_>,
    ids: &[u32],
    y: &ViewMut<'_>,
) -> Result<(), DeviceError> {
    let expected = table.shape().with_first(ids.len());
    if y.shape() != &expected {
        return Err(DeviceError::mismatch(kernel, "y", &expected, y.shape()));
    }
    let rows = table.shape().first().copied().unwrap_or(0) as u64;
    match ids.iter().find(|&&id| u64::from(id) >= rows) {
        Some(&id) => {
            let (what, offset) = ("a row of a table", u64::from(id));
            Err(DeviceError::OutOfRange { what, offset, bytes: 1, available: rows })
        }
        None => Ok(()),
    }
}

/// The result has the shape of the input.
pub(crate) fn cast(kernel: &'static str, x: &View<'_>, y: &ViewMut<'_>) -> Result<(), DeviceError> {
    if x.shape() != y.shape() {
        return Err(DeviceError::mismatch(kernel, "y", x.shape(), y.shape()));
    }
    Ok(())
}
