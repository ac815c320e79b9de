//! [`StridedCopy`], and other strided copies.

use vram_types::DType;

use super::super::device::Wgpu;
use super::super::launch::flat;
use super::super::operand::{Operand, count};
use super::super::pipeline::{Key, Program, Writes};
use crate::ops::{Axes, Axis, StridedCopy};
use crate::{DeviceError, View, ViewMut};

/// A copy of elements of this many bits.
macro_rules! program {
    ($name:literal, $bits:literal) => {
        Program {
            name: $name,
            source: concat!("const BITS = ", $bits, ";\n", include_str!("strided_copy.wgsl")),
            writes: Writes::Itself { buffers: 2 },
        }
    };
}

static BYTES: Program = program!("strided copy of 8 bits", "8u");
static HALVES: Program = program!("strided copy of 16 bits", "16u");
static WORDS: Program = program!("strided copy of 32 bits", "32u");

/// The most axes that the kernel supports besides a run.
const MOST: usize = 7;

/// Threads of a workgroup.
const GROUP: u64 = 64;

/// A copy in elements of `size` bytes.
struct Copy<'a> {
    name: &'static str,
    program: &'static Program,
    size: u64,
    x: Operand<'a>,
    y: Operand<'a>,
}

impl Wgpu {
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
        // Elements of 64 bits are two adjacent words.
        let (program, size, words) = match x.dtype().bits() {
            8 => (&BYTES, 1, 1),
            16 => (&HALVES, 2, 1),
            32 => (&WORDS, 4, 1),
            64 => (&WORDS, 4, 2),
            _ => return Err(DeviceError::dtype(name, x.dtype(), "its elements are not 1, 2, 4 or 8 bytes")),
        };
        if axes.iter().any(|axis| axis.extent == 0) {
            return Ok(());
        }
        let wide =
            axes.iter().map(|&Axis { extent, from, to }| Axis { extent, from: from * words, to: to * words });
        let axes: Axes = wide.chain([Axis { extent: words, from: 1, to: 1 }]).collect();
        let copy =
            Copy { name, program, size, x: self.launcher.read(name, x)?, y: self.launcher.write(name, y)? };
        let mut axes = axes.merged().to_vec();
        self.copied(&copy, (from * words) as u64, &mut axes, (to * words) as u64)
    }

    /// Runs a copy, divided along its axes until the adapter can bind what it touches.
    fn copied(&self, copy: &Copy<'_>, from: u64, axes: &mut [Axis], to: u64) -> Result<(), DeviceError> {
        let reach = |stride: fn(&Axis) -> usize| {
            axes.iter().map(|axis| (axis.extent as u64 - 1) * stride(axis) as u64).sum::<u64>() + 1
        };
        let (reads, writes) = (reach(|axis| axis.from), reach(|axis| axis.to));
        if reads.max(writes) <= self.launcher.rows_at_once(copy.name, copy.size)? {
            return self.copied_at_once(copy, (from, reads), axes, (to, writes));
        }
        let span = |axis: &Axis| (axis.extent - 1) as u64 * axis.from.max(axis.to) as u64;
        // One axis has a span; otherwise the copy would be of one element, and fit.
        let Some(longest) = (0..axes.len()).max_by_key(|&i| span(&axes[i])) else { return Ok(()) };
        let whole = axes[longest];
        let half = whole.extent / 2;
        axes[longest].extent = half;
        self.copied(copy, from, axes, to)?;
        axes[longest].extent = whole.extent - half;
        let (from, to) = (from + (half * whole.from) as u64, to + (half * whole.to) as u64);
        self.copied(copy, from, axes, to)?;
        axes[longest] = whole;
        Ok(())
    }

    fn copied_at_once(
        &self,
        copy: &Copy<'_>,
        (from, reads): (u64, u64),
        axes: &[Axis],
        (to, writes): (u64, u64),
    ) -> Result<(), DeviceError> {
        let &Copy { name, program, size, ref x, ref y } = copy;
        let x = self.launcher.window(name, x, from * size, reads * size)?;
        let y = self.launcher.window(name, y, to * size, writes * size)?;
        let (run, outer) = match axes.split_last() {
            Some((&last, outer)) if last.to == 1 => (last, outer),
            _ => (Axis { extent: 1, from: 0, to: 1 }, axes),
        };
        if outer.len() > MOST {
            return Err(DeviceError::shape(name, format!("{} axes are more than {MOST}", outer.len())));
        }
        // The most words that a run touches, wherever it begins in one.
        let per_word = 4 / size;
        let words = (run.extent as u64 + 2 * (per_word - 1)).div_ceil(per_word);
        let runs: u64 = outer.iter().map(|axis| axis.extent as u64).product();
        let number = |n: u64| count(name, n as usize);
        let mut parameters = vec![
            number(runs * words)?,
            number(words)?,
            number(run.extent as u64)?,
            number(run.from as u64)?,
            outer.len() as u32,
            x.skip,
            y.skip_elements(size),
            0,
        ];
        for axis in outer.iter().rev() {
            let values = [axis.extent, axis.from, axis.to].map(|n| number(n as u64));
            for value in values {
                parameters.push(value?);
            }
            parameters.push(0);
        }
        parameters.resize(8 + 4 * MOST, 0);
        // What the elements mean does not matter here.
        let key = Key::new(program, &[], DType::F32);
        self.launcher.run(key, &[x, y], &parameters, flat((runs * words).div_ceil(GROUP)))
    }
}
