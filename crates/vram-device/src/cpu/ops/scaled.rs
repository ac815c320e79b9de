//! Numbers times their scales, for kernels that read them.

use vram_types::encoding::ScaledRows;
use vram_types::{DType, Encoding};

use super::operand::{read, refused, stored};
use crate::cpu::error::{KernelError, check_len};
use crate::cpu::num::{Elem, weight_bytes, with_weight};
use crate::ops::Op;
use crate::{DeviceError, View};

/// The scales of some rows of a weight.
#[derive(Clone, Copy, Debug)]
pub struct ScaleArgs<'a> {
    /// The scales that the rows need, and their dtype.
    pub values: (&'a [u8], DType),
    /// The rows.
    pub rows: &'a ScaledRows,
}

/// Rows of a weight and their scales; their lengths match.
#[derive(Clone, Copy)]
pub(super) struct Scaled<'a> {
    numbers: (&'a [u8], DType),
    scales: ScaleArgs<'a>,
}

impl<'a> Scaled<'a> {
    /// # Errors
    /// For a dtype that weights cannot have, and if there are too few numbers or scales.
    pub(super) fn new(
        numbers: (&'a [u8], DType),
        scales: ScaleArgs<'a>,
        shape: [usize; 2],
    ) -> Result<Scaled<'a>, KernelError> {
        let [rows, columns] = shape;
        check_len("w", numbers.0.len(), &[rows, columns, weight_bytes("w", numbers.1)?])?;
        if [scales.rows.rows().len(), scales.rows.columns()] != shape {
            return Err(KernelError::Shape { what: "the scales belong to other rows" });
        }
        let needed = scales.rows.scales();
        let count = usize::try_from(needed.end - needed.start).unwrap_or(usize::MAX);
        let (values, dtype) = scales.values;
        check_len("scales", values.len(), &[count, weight_bytes("scales", dtype)?])?;
        Ok(Scaled { numbers, scales })
    }

    /// The count of the numbers.
    pub(super) fn elements(&self) -> usize {
        self.scales.rows.rows().len() * self.scales.rows.columns()
    }

    /// The products in f32, beginning with number `first` of the rows.
    pub(super) fn values(&self, first: usize, out: &mut [f32]) {
        let (numbers, dtype) = self.numbers;
        with_weight!(dtype, W => {
            for (value, &number) in out.iter_mut().zip(&W::slice(numbers)[first..]) {
                *value = W::get(number);
            }
        });
        let (scales, dtype) = self.scales.values;
        let (count, mut rest) = (out.len(), out);
        self.scales.rows.runs(first, count, |len, number| {
            let (run, after) = std::mem::take(&mut rest).split_at_mut(len);
            let scale = with_weight!(dtype, S => S::get(S::slice(scales)[number]));
            run.iter_mut().for_each(|value| *value *= scale);
            rest = after;
        });
    }
}

/// Whether a kernel applies scales to numbers of this dtype while it reads them.
pub(super) fn takes(op: &Op<'_>, dtype: DType) -> bool {
    matches!(op, Op::Linear(_) | Op::Cast(_)) && weight_bytes("w", dtype).is_ok()
}

/// The scales of a view, if it has any.
pub(super) fn scale_args<'a>(
    op: &'static str,
    view: &'a View<'_>,
) -> Result<Option<ScaleArgs<'a>>, DeviceError> {
    let Some((values, rows)) = view.scales() else { return Ok(None) };
    Ok(Some(ScaleArgs { values: stored(op, values)?, rows }))
}

/// A view with scales.
pub(super) fn scaled<'a>(op: &'static str, view: &'a View<'_>) -> Result<Scaled<'a>, DeviceError> {
    match (view.encoding(), scale_args(op, view)?, view.shape().dims()) {
        (Encoding::Scaled(dtype), Some(scales), &[rows, columns]) => {
            Scaled::new((read(op, view)?, dtype), scales, [rows, columns]).map_err(|e| refused(op, e))
        }
        _ => Err(DeviceError::shape(op, "a weight with scales is a matrix")),
    }
}
