//! [`Im2col`]: runs of channels copied as bytes.

use super::operand::{act, read, write};
use super::volume::split;
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::par::{self, BLOCK};
use crate::ops::{Im2col, Operation, Window};

impl Cpu {
    pub(super) fn im2col(&self, op: Im2col<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let Im2col { x, extents, window, first, mut y } = op;
        let size = act(name, x.dtype())?;
        let (channels, row) = (x.shape().last() * size, y.shape().last() * size);
        let outputs = window.outputs(extents);
        let (x, y) = (read(name, &x)?, write(name, &mut y)?);
        let Some(outputs) = outputs.filter(|_| row > 0) else { return Ok(()) };
        let rows = (BLOCK / row).max(1);
        let pool = par::worth(Some(&self.pool), y.len());
        par::for_each_block(pool, y, rows * row, |i, y| {
            for (j, y) in y.chunks_exact_mut(row).enumerate() {
                patch(x, extents, &window, split(first + i * rows + j, outputs), channels, y);
            }
        });
        Ok(())
    }
}

/// The window at one output position; `channels` is in bytes.
fn patch(x: &[u8], extents: [usize; 3], window: &Window, at: [usize; 3], channels: usize, y: &mut [u8]) {
    let place = |axis: usize, element: usize| {
        let padded = at[axis] * window.stride[axis] + element * window.dilation[axis];
        padded.checked_sub(window.before[axis]).filter(|&i| i < extents[axis])
    };
    let mut to = y.chunks_exact_mut(channels);
    for depth in (0..window.kernel[0]).map(|element| place(0, element)) {
        for height in (0..window.kernel[1]).map(|element| place(1, element)) {
            for width in (0..window.kernel[2]).map(|element| place(2, element)) {
                let Some(to) = to.next() else { return };
                match (depth, height, width) {
                    (Some(d), Some(h), Some(w)) => {
                        let from = (d * extents[1] + h) * extents[2] + w;
                        to.copy_from_slice(&x[from * channels..][..channels]);
                    }
                    // Zero is all zero bits in every compute dtype.
                    _ => to.fill(0),
                }
            }
        }
    }
}
