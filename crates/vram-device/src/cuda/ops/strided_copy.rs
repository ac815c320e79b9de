//! [`StridedCopy`], and other strided copies.

use vram_types::DType;

use super::super::device::Cuda;
use super::super::launch::{Arg, over};
use super::super::program::{Key, Program};
use crate::ops::{Axes, Axis, StridedCopy};
use crate::{DeviceError, View, ViewMut};

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "strided_copy",
    source: concat!(include_str!("common.cu"), include_str!("strided_copy.cu")),
    kernels: &["strided_copy", "strided_copy_turned"],
    by_weight: false,
};

/// The most axes that the kernels support: those of an upsampling.
const MOST: usize = 7;

/// Steps along each edge of a tile of the transposing kernel.
const TILE: u64 = 32;

impl Cuda {
    pub(super) fn strided_copy(&self, op: &StridedCopy<'_>) -> Result<(), DeviceError> {
        self.copy_by_strides("strided_copy", (&op.x, op.from), &op.axes, (&op.y, op.to))
    }

    /// A copy that passes the check of [`StridedCopy`], except that it may have more axes.
    pub(super) fn copy_by_strides(
        &self,
        name: &'static str,
        (x, from): (&View<'_>, usize),
        axes: &Axes,
        (y, to): (&ViewMut<'_>, usize),
    ) -> Result<(), DeviceError> {
        let size = match x.dtype().bits() {
            bits @ (8 | 16 | 32 | 64) => u64::from(bits) / 8,
            _ => return Err(DeviceError::dtype(name, x.dtype(), "its elements are not 1, 2, 4 or 8 bytes")),
        };
        let (x, y) = (self.launcher.bytes(name, x)?, self.launcher.bytes_mut(name, y, size)?);
        let elements: u64 = axes.iter().map(|axis| axis.extent as u64).product();
        if elements == 0 {
            return Ok(());
        }
        let mut axes: Vec<Axis> = axes.merged().to_vec();
        let turned = turned(&mut axes);
        let mut values = [1; 3 * MOST];
        if axes.len() > MOST {
            return Err(DeviceError::shape(name, format!("{} axes are more than {MOST}", axes.len())));
        }
        for (i, axis) in axes.iter().enumerate() {
            (values[i], values[MOST + i], values[2 * MOST + i]) =
                (axis.extent as u64, axis.from as u64, axis.to as u64);
        }
        let mut args = vec![
            Arg::Pointer(x + from as u64 * size),
            Arg::Pointer(y + to as u64 * size),
            Arg::Int(size as u32),
            Arg::Int(axes.len() as u32),
            Arg::Longs(&values),
        ];
        // Elements are bytes here, whatever they mean.
        let key = Key::new(&PROGRAM, DType::F32);
        match turned {
            true => {
                let tiles = |i: usize, axis: &Axis| match axes.len() - i {
                    1 | 2 => (axis.extent as u64).div_ceil(TILE),
                    _ => axis.extent as u64,
                };
                let blocks = axes.iter().enumerate().map(|(i, axis)| tiles(i, axis)).product();
                self.launcher.launch(key, "strided_copy_turned", [blocks, 1, 1], &args)
            }
            false => {
                args.push(Arg::Long(elements));
                self.launcher.launch(key, "strided_copy", over(elements), &args)
            }
        }
    }
}

/// Whether neighbours in `y` are apart in `x` and vice versa, so that tiles should be transposed. If so,
/// moves the axis of neighbours in `x` to the second-to-last place.
fn turned(axes: &mut [Axis]) -> bool {
    // Shorter axes leave most of a tile empty.
    const LEAST: usize = 8;
    let Some((along, outer)) = axes.split_last_mut() else { return false };
    let across = outer.iter().position(|axis| axis.from == 1 && axis.extent >= LEAST);
    match across {
        Some(at) if along.to == 1 && along.from > 1 && along.extent >= LEAST => {
            outer[at..].rotate_left(1);
            true
        }
        _ => false,
    }
}
