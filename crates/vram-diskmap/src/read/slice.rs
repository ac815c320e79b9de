//! Which runs of bytes a slice of a tensor is: arithmetic alone.

use std::ops::Range;

use vram_types::{Shape, SourceErrorKind, TensorMeta};

use crate::fault::Fault;

/// The runs of equal length that, one after the other, are a slice's bytes.
#[derive(Debug)]
pub(crate) struct Runs {
    /// First byte of the first run.
    first: u64,
    /// Bytes of each run.
    pub(crate) bytes: u64,
    /// Outer extents of the slice and the bytes of one step, outermost first.
    outer: Vec<(u64, u64)>,
    /// Dtype and shape of the slice.
    pub(crate) meta: TensorMeta,
}

impl Runs {
    /// The slice of `meta` at one range per extent, outermost first; extents without a range are
    /// taken whole.
    pub(crate) fn new(meta: &TensorMeta, ranges: &[Range<usize>]) -> Result<Runs, Fault> {
        let outside = |message: String| Fault::new(SourceErrorKind::OutOfRange, message);
        let shape = meta.shape();
        if ranges.len() > shape.rank() {
            return Err(outside(format!("{} ranges for the shape {shape}", ranges.len())));
        }
        let whole = shape.iter().skip(ranges.len()).map(|&extent| 0..extent);
        let ranges: Vec<Range<usize>> = ranges.iter().cloned().chain(whole).collect();
        for (range, &extent) in ranges.iter().zip(shape.iter()) {
            if range.start > range.end || range.end > extent {
                return Err(outside(format!("the range {range:?} of an extent of {extent}")));
            }
        }
        let sliced: Shape = ranges.iter().map(Range::len).collect();
        let partial = || {
            let message = "a slice that begins or ends in the middle of a byte";
            Fault::new(SourceErrorKind::Unsupported, message)
        };
        let sliced = TensorMeta::new(meta.dtype(), sliced).map_err(|_| partial())?;
        if sliced.bytes() == 0 {
            return Ok(Runs { first: 0, bytes: 0, outer: Vec::new(), meta: sliced });
        }
        Runs::of_elements(meta, &ranges, sliced).ok_or_else(partial)
    }

    /// `None` if a run begins or ends in the middle of a byte. Nothing overflows: the whole
    /// tensor's bits fit a u128.
    fn of_elements(meta: &TensorMeta, ranges: &[Range<usize>], sliced: TensorMeta) -> Option<Runs> {
        let to_bytes = |bits: u128| {
            if bits.is_multiple_of(8) { u64::try_from(bits / 8).ok() } else { None }
        };
        let (mut stride, mut run, mut first) = (u128::from(meta.dtype().bits()), 0, 0);
        let mut outer: Vec<(u64, u64)> = Vec::new();
        let mut contiguous = true;
        run += stride;
        for (range, &extent) in ranges.iter().zip(meta.shape().iter()).rev() {
            first += range.start as u128 * stride;
            if contiguous {
                // Everything inside is whole, so this extent's range is one run.
                run *= range.len() as u128;
                contiguous = range.len() == extent;
            } else if range.len() > 1 {
                outer.push((range.len() as u64, to_bytes(stride)?));
            }
            stride *= extent as u128;
        }
        outer.reverse();
        Some(Runs { first: to_bytes(first)?, bytes: to_bytes(run)?, outer, meta: sliced })
    }

    /// Where each run begins, in bytes from the tensor's beginning, in ascending order.
    pub(crate) fn starts(&self) -> impl Iterator<Item = u64> + '_ {
        let count = if self.bytes == 0 { 0 } else { self.outer.iter().map(|(len, _)| len).product() };
        (0..count).map(|run: u64| {
            let mut left = run;
            let mut at = self.first;
            for (len, stride) in self.outer.iter().rev() {
                at += left % len * stride;
                left /= len;
            }
            at
        })
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // one extent, one range
mod tests {
    use vram_types::DType;

    use super::*;

    fn runs(
        dtype: DType,
        shape: &[usize],
        ranges: &[Range<usize>],
    ) -> Result<(Vec<u64>, u64), SourceErrorKind> {
        let meta = TensorMeta::new(dtype, shape).unwrap();
        let runs = Runs::new(&meta, ranges).map_err(|f| f.kind)?;
        let bytes = runs.starts().count() as u64 * runs.bytes;
        assert_eq!(bytes, runs.meta.bytes());
        Ok((runs.starts().collect(), runs.bytes))
    }

    #[test]
    fn contiguous_extents_are_one_run() {
        assert_eq!(runs(DType::U8, &[4, 5, 6], &[]), Ok((vec![0], 120)));
        assert_eq!(runs(DType::U8, &[4, 5, 6], &[1..3]), Ok((vec![30], 60)));
        assert_eq!(runs(DType::U8, &[4, 5, 6], &[1..2, 2..4]), Ok((vec![42], 12)));
        assert_eq!(runs(DType::BF16, &[4, 5, 6], &[0..4, 1..2]), Ok((vec![12, 72, 132, 192], 12)));
        assert_eq!(runs(DType::U8, &[2, 2, 3], &[0..2, 0..2, 1..2]), Ok((vec![1, 4, 7, 10], 1)));
        assert_eq!(runs(DType::F32, &[], &[]), Ok((vec![0], 4)));
        assert_eq!(runs(DType::F32, &[3, 3], &[1..1, 0..3]), Ok((vec![], 0)));
        assert_eq!(runs(DType::F32, &[0, 3], &[]), Ok((vec![], 0)));
    }

    #[test]
    fn refuses_what_is_outside_or_inside_a_byte() {
        assert_eq!(runs(DType::U8, &[4], &[3..5]), Err(SourceErrorKind::OutOfRange));
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 3..2;
        assert_eq!(runs(DType::U8, &[4], &[reversed]), Err(SourceErrorKind::OutOfRange));
        assert_eq!(runs(DType::U8, &[4], &[0..4, 0..1]), Err(SourceErrorKind::OutOfRange));
        assert_eq!(runs(DType::F4, &[4, 4], &[0..4, 2..4]), Ok((vec![1, 3, 5, 7], 1)));
        assert_eq!(runs(DType::F4, &[4, 4], &[0..4, 1..3]), Err(SourceErrorKind::Unsupported));
        assert_eq!(runs(DType::F4, &[2, 3], &[0..2, 0..1]), Err(SourceErrorKind::Unsupported));
    }
}
