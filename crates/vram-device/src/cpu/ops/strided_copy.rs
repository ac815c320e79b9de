//! [`StridedCopy`]: elements copied as bytes.

use super::operand::{read, write};
use crate::cpu::Cpu;
use crate::cpu::par::{self, BLOCK, Pool};
use crate::ops::{Axes, Axis, Operation, StridedCopy};
use crate::{DeviceError, View, ViewMut};

impl Cpu {
    pub(super) fn strided_copy(&self, op: StridedCopy<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let StridedCopy { x, from, axes, to, mut y } = op;
        self.copy_by_strides(name, (&x, from), &axes, (&mut y, to))
    }

    /// A copy that passes the check of [`StridedCopy`], except that it may have more axes.
    pub(super) fn copy_by_strides(
        &self,
        name: &'static str,
        (x, from): (&View<'_>, usize),
        axes: &Axes,
        (y, to): (&mut ViewMut<'_>, usize),
    ) -> Result<(), DeviceError> {
        if axes.iter().any(|axis| axis.extent == 0) {
            return Ok(());
        }
        let dtype = x.dtype();
        let axes = axes.merged();
        let (x, y) = (read(name, x)?, write(name, y)?);
        let pool = par::worth(Some(&self.pool), y.len());
        match dtype.bits() {
            8 => copy::<1>(x, from, &axes, to, y, pool),
            16 => copy::<2>(x, from, &axes, to, y, pool),
            32 => copy::<4>(x, from, &axes, to, y, pool),
            64 => copy::<8>(x, from, &axes, to, y, pool),
            _ => return Err(DeviceError::dtype(name, dtype, "its elements are not 1, 2, 4 or 8 bytes")),
        }
        Ok(())
    }
}

/// Copies elements of `N` bytes. The tasks are the steps along the first axis, which has the largest stride
/// in `y`: no steps meet, so each reaches a separate part of `y`.
fn copy<const N: usize>(x: &[u8], from: usize, axes: &[Axis], to: usize, y: &mut [u8], pool: Pool<'_>) {
    let x = &x.as_chunks::<N>().0[from..];
    let y = &mut y[to * N..];
    let Some((outer, inner)) = axes.split_first() else {
        return steps(x, axes, y.as_chunks_mut().0);
    };
    let at_once = (BLOCK / (outer.to * N)).max(1);
    let end = y.len().min(outer.extent * outer.to * N);
    par::for_each_block(pool, &mut y[..end], at_once * outer.to * N, |i, y| {
        let y: &mut [[u8; N]] = y.as_chunks_mut().0;
        let first = i * at_once;
        let (x, count) = (&x[first * outer.from..], at_once.min(outer.extent - first));
        if inner.is_empty() {
            return steps(x, &[Axis { extent: count, ..*outer }], y);
        }
        for step in 0..count {
            steps(&x[step * outer.from..], inner, &mut y[step * outer.to..]);
        }
    });
}

/// Every step along every axis.
fn steps<const N: usize>(x: &[[u8; N]], axes: &[Axis], y: &mut [[u8; N]]) {
    match axes {
        [] => y[0] = x[0],
        &[Axis { extent, from: 1, to: 1 }] => y[..extent].copy_from_slice(&x[..extent]),
        &[Axis { extent, from, to }] => {
            for i in 0..extent {
                y[i * to] = x[i * from];
            }
        }
        [Axis { extent, from, to }, inner @ ..] => {
            for i in 0..*extent {
                steps(&x[i * from..], inner, &mut y[i * to..]);
            }
        }
    }
}
