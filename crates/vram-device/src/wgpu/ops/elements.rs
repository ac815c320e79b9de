//! Element-wise kernels.

use super::super::launch::{Launcher, over_words, pieces};
use super::super::operand::{activation, stored};
use super::super::pipeline::{Key, Program};
use crate::{DeviceError, View, ViewMut};

/// A kernel that computes an expression, given in parts, for each element `i`. `old` is its previous value,
/// `read0(p.x0, i)` the element of the first input. One row for all rows is read at `i % p.width`, a column
/// at `i / p.width`.
macro_rules! program {
    ($name:expr, $($body:literal),+) => {
        $crate::wgpu::pipeline::Program {
            name: $name,
            source: concat!(
                include_str!("../shaders/each.wgsl"),
                include_str!("../shaders/elements.wgsl"),
                "fn element(i: u32, old: f32) -> f32 { return ",
                $($body,)+
                "; }\n"
            ),
            writes: $crate::wgpu::pipeline::Writes::Packed,
        }
    };
}

pub(super) use program;

/// An input besides `y`, and which of its elements belong to those of `y`.
pub(super) enum Input<'a> {
    /// Of the shape of `y`.
    Each(&'a View<'a>),
    /// One row for every row of `y`.
    Row(&'a View<'a>),
    /// One value for each row of `y`.
    Column(&'a View<'a>),
}

/// Rows and columns of `y` that are computed at once: whole rows, or part of one row.
struct Piece {
    row: u64,
    rows: u64,
    column: u64,
    columns: u64,
}

/// Runs a kernel over elements, in place or from other tensors.
pub(super) fn elements(
    launcher: &Launcher,
    (name, program): (&'static str, &'static Program),
    inputs: &[Input<'_>],
    factor: f32,
    y: &ViewMut<'_>,
) -> Result<(), DeviceError> {
    let flat = inputs.iter().all(|input| matches!(input, Input::Each(_)));
    let (rows, width) = match flat {
        true => (1, y.meta().elements()),
        false => (y.shape().rows() as u64, y.shape().last() as u64),
    };
    let y = launcher.write(name, y)?;
    let size = activation(name, y.dtype)?;
    let mut operands = Vec::with_capacity(inputs.len());
    for input in inputs {
        let (Input::Each(view) | Input::Row(view) | Input::Column(view)) = input;
        let operand = launcher.read(name, view)?;
        operands.push((input, operand, stored(name, operand.dtype)?));
    }
    let key = Key::new(program, &operands.iter().map(|(_, x, _)| x.dtype).collect::<Vec<_>>(), y.dtype);
    let largest = operands.iter().map(|(_, _, size)| *size).fold(size, u64::max);
    for Piece { row, rows, column, columns } in tiles((rows, width), launcher.rows_at_once(name, largest)?) {
        let n = rows * columns;
        let mut windows = Vec::with_capacity(4);
        let mut parameters = [n as u32, columns as u32, 0, 0, 0, 0, factor.to_bits()];
        for ((input, x, size), skip) in operands.iter().zip(&mut parameters[2..5]) {
            let (first, n) = match input {
                Input::Each(_) => (row * width + column, n),
                Input::Row(_) => (column, columns),
                Input::Column(_) => (row, rows),
            };
            let x = launcher.window(name, x, first * size, n * size)?;
            *skip = x.skip;
            windows.push(x);
        }
        let y = launcher.window(name, &y, (row * width + column) * size, n * size)?;
        parameters[5] = y.skip_elements(size);
        windows.push(y);
        launcher.run(key, &windows, &parameters, over_words(y.skip, n * size))?;
    }
    Ok(())
}

/// Pieces of at most `at_once` elements.
fn tiles((rows, width): (u64, u64), at_once: u64) -> Vec<Piece> {
    if rows == 0 || width == 0 {
        return Vec::new();
    }
    if width <= at_once {
        let whole = |(row, rows)| Piece { row, rows, column: 0, columns: width };
        return pieces(rows, at_once / width).map(whole).collect();
    }
    // Each in whole words.
    let parts = |row| {
        pieces(width, at_once & !3).map(move |(column, columns)| Piece { row, rows: 1, column, columns })
    };
    (0..rows).flat_map(parts).collect()
}
