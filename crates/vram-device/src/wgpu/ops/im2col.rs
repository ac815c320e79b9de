//! [`Im2col`].

use std::ops::Range;

use super::super::device::Wgpu;
use super::super::launch::{over_words, pieces};
use super::super::operand::{activation, count};
use super::super::pipeline::{Key, Program, Writes};
use crate::DeviceError;
use crate::ops::{Im2col, Window};

static PROGRAM: Program = Program {
    name: "im2col",
    source: concat!(include_str!("../shaders/each.wgsl"), include_str!("im2col.wgsl")),
    writes: Writes::Packed,
};

impl Wgpu {
    pub(super) fn im2col(&self, op: &Im2col<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "im2col";
        let (m, width, channels) = (op.y.shape().rows(), op.y.shape().last(), op.x.shape().last());
        let (x, y) = (self.launcher.read(NAME, &op.x)?, self.launcher.write(NAME, &op.y)?);
        let size = activation(NAME, y.dtype)?;
        let (row, x_row) = (width as u64 * size, channels as u64 * size);
        let Some(outputs) = op.window.outputs(op.extents).filter(|_| row > 0) else { return Ok(()) };
        let mut window = Vec::with_capacity(24);
        let (stride, before) = (op.window.stride, op.window.before);
        for part in [op.extents, outputs, op.window.kernel, stride, op.window.dilation, before] {
            for value in part {
                window.push(count(NAME, value)?);
            }
            window.push(0);
        }
        for ((extent, before), after) in op.extents.iter().zip(&before).zip(&op.window.after) {
            // Positions include the padding.
            count(NAME, extent + before + after)?;
        }
        count(NAME, op.x.shape().rows())?;
        count(NAME, op.first + m)?;
        let key = Key::new(&PROGRAM, &[x.dtype], y.dtype);
        let x_at_once = self.launcher.rows_at_once(NAME, x_row)?;
        for (first, rows) in pieces(m as u64, self.launcher.rows_at_once(NAME, row)?) {
            let to = self.launcher.window(NAME, &y, first * row, rows * row)?;
            let position = op.first + first as usize;
            let read = touched(position..position + rows as usize, (op.extents, outputs), &op.window);
            let mut parts: Vec<_> =
                pieces(read.end - read.start, x_at_once).map(|(at, n)| (read.start + at, n)).collect();
            if parts.is_empty() {
                // All of it is padding.
                parts.push((0, 0));
            }
            for (begin, n) in parts {
                let from = match n {
                    // Bound but not read.
                    0 => to,
                    _ => self.launcher.window(NAME, &x, begin * x_row, n * x_row)?,
                };
                let mut parameters = vec![
                    (rows * width as u64) as u32,
                    width as u32,
                    channels as u32,
                    from.skip,
                    to.skip_elements(size),
                    position as u32,
                    begin as u32,
                    (begin + n) as u32,
                ];
                parameters.extend(&window);
                self.launcher.run(key, &[from, to], &parameters, over_words(to.skip, rows * row))?;
            }
        }
        Ok(())
    }
}

/// The rows of `x` that the windows at some positions reach.
fn touched(
    positions: Range<usize>,
    (extents, outputs): ([usize; 3], [usize; 3]),
    window: &Window,
) -> Range<u64> {
    let split = |position: usize| {
        let line = position / outputs[2];
        [line / outputs[1], line % outputs[1]]
    };
    let (first, last) = (split(positions.start), split(positions.end - 1));
    let begin = |axis: usize, output: usize| {
        (output * window.stride[axis]).saturating_sub(window.before[axis]).min(extents[axis])
    };
    let end = |axis: usize, output: usize| {
        let reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1;
        (output * window.stride[axis] + reach).saturating_sub(window.before[axis]).min(extents[axis])
    };
    let depths = begin(0, first[0])..end(0, last[0]);
    let heights = match first[0] == last[0] {
        true => begin(1, first[1])..end(1, last[1]),
        false => 0..extents[1],
    };
    if depths.is_empty() || heights.is_empty() {
        return 0..0;
    }
    let row = |depth: usize, height: usize| ((depth * extents[1] + height) * extents[2]) as u64;
    row(depths.start, heights.start)..row(depths.end - 1, heights.end)
}
