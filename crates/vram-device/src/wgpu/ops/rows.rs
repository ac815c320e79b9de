//! What norms share: a workgroup for each row.

use super::super::launch::{Launcher, flat, pieces};
use super::super::operand::{activation, stored};
use super::super::pipeline::{Key, Program};
use super::super::queue::Window;
use crate::{DeviceError, View, ViewMut};

/// A norm with the functions `moments` and `normal` of a file, and expressions for its weight and its bias of
/// column `i`: ones and zeros if absent.
macro_rules! program {
    ($file:literal, $name:literal, $weight:literal, $bias:literal) => {
        $crate::wgpu::pipeline::Program {
            name: $name,
            source: concat!(
                include_str!("../shaders/total.wgsl"),
                include_str!("../shaders/norm.wgsl"),
                include_str!($file),
                "fn weight(i: u32) -> f32 { return ",
                $weight,
                "; }\nfn bias(i: u32) -> f32 { return ",
                $bias,
                "; }\n"
            ),
            writes: $crate::wgpu::pipeline::Writes::Scattered,
        }
    };
}

pub(super) use program;

/// Runs a norm: `x`, a weight and a bias if given, `y`.
pub(super) fn norm(
    launcher: &Launcher,
    (name, program): (&'static str, &'static Program),
    x: &View<'_>,
    affine: &[&View<'_>],
    eps: f32,
    y: &ViewMut<'_>,
) -> Result<(), DeviceError> {
    let (m, width) = (x.shape().rows() as u64, x.shape().last() as u64);
    let x = launcher.read(name, x)?;
    let y = launcher.write(name, y)?;
    let row = width * activation(name, y.dtype)?;
    let mut reads = vec![x.dtype];
    let mut affine_windows = Vec::new();
    for view in affine {
        let operand = launcher.read(name, view)?;
        stored(name, operand.dtype)?;
        reads.push(operand.dtype);
        affine_windows.push(launcher.whole(name, &operand)?);
    }
    let skip = |i: usize| affine_windows.get(i).map_or(0, |window: &Window<'_>| window.skip);
    let key = Key::new(program, &reads, y.dtype);
    for (first, rows) in pieces(m, launcher.rows_at_once(name, row)?) {
        let x = launcher.window(name, &x, first * row, rows * row)?;
        let y = launcher.window(name, &y, first * row, rows * row)?;
        let windows: Vec<_> = [x].into_iter().chain(affine_windows.iter().copied()).chain([y]).collect();
        let y_at = y.skip_elements(row / width.max(1));
        let all = [rows as u32, width as u32, x.skip, skip(0), skip(1), y_at, eps.to_bits()];
        launcher.run(key, &windows, &all, flat(rows))?;
    }
    Ok(())
}
