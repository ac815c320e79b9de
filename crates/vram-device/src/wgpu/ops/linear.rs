//! [`Linear`], and products of any two tensors.

use vram_types::DType;

use super::super::device::Wgpu;
use super::super::launch::{GROUPS, Launcher, pieces};
use super::super::operand::{activation, count, stored};
use super::super::pipeline::{Key, Program, Writes};
use super::super::queue::Window;
use crate::DeviceError;
use crate::ops::Linear;

/// A product whose threads compute `rows` rows by four columns each.
macro_rules! program {
    ($name:literal, $rows:literal, $bias:literal) => {
        Program {
            name: $name,
            source: concat!(
                "const ROWS = ",
                $rows,
                ";\nfn bias(at: u32, i: u32) -> f32 { return ",
                $bias,
                "; }\n",
                include_str!("linear.wgsl")
            ),
            writes: Writes::Scattered,
        }
    };
}

/// With small and with large tiles, each without and with a bias.
static PROGRAMS: [[Program; 2]; 2] = [
    [program!("low product", "1u", "0.0"), program!("low product and bias", "1u", "rounded(read2(at, i))")],
    [program!("product", "4u", "0.0"), program!("product and bias", "4u", "rounded(read2(at, i))")],
];

/// Rows and columns of a tile per thread along either edge.
const TILE: u64 = 16;

/// A product for every batch: `y[i, j] = scale * sum a[i, k] b[j, k] + bias[j]`, strides in elements.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) a: (Window<'a>, DType),
    pub(super) b: (Window<'a>, DType),
    pub(super) bias: Option<(Window<'a>, DType)>,
    pub(super) y: (Window<'a>, DType),
    pub(super) act: DType,
    pub(super) extents: [u64; 3],
    pub(super) batches: u64,
    pub(super) a_strides: [u64; 2],
    pub(super) b_strides: [u64; 3],
    /// Neighbouring batches that share one matrix of `b`.
    pub(super) b_sharing: u64,
    pub(super) y_strides: [u64; 2],
    /// Elements from the beginning of `y` to the result.
    pub(super) y_at: u64,
    pub(super) scale: f32,
}

impl Wgpu {
    pub(super) fn linear(&self, op: &Linear<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear";
        let (m, k) = (op.x.shape().rows() as u64, op.x.shape().last() as u64);
        let (n, columns) = (op.weight.shape().rows() as u64, op.y.shape().last() as u64);
        let (x, weight) = (self.launcher.read(NAME, &op.x)?, self.launcher.read(NAME, &op.weight)?);
        let bias = op.bias.as_ref().map(|bias| self.launcher.read(NAME, bias)).transpose()?;
        if let Some(bias) = &bias {
            stored(NAME, bias.dtype)?;
        }
        let y = self.launcher.write(NAME, &op.y)?;
        let (size, stored_size) = (activation(NAME, y.dtype)?, stored(NAME, weight.dtype)?);
        let rows = self.launcher.rows_at_once(NAME, k.max(columns) * size)?.min(GROUPS * TILE);
        let outputs = self.launcher.rows_at_once(NAME, k * stored_size)?.min(GROUPS * TILE);
        for (row, rows) in pieces(m, rows) {
            for (output, outputs) in pieces(n, outputs) {
                let of = Product {
                    a: (self.launcher.window(NAME, &x, row * k * size, rows * k * size)?, x.dtype),
                    b: (
                        self.launcher.window(
                            NAME,
                            &weight,
                            output * k * stored_size,
                            outputs * k * stored_size,
                        )?,
                        weight.dtype,
                    ),
                    bias: match &bias {
                        Some(bias) => {
                            let size = stored(NAME, bias.dtype)?;
                            Some((
                                self.launcher.window(NAME, bias, output * size, outputs * size)?,
                                bias.dtype,
                            ))
                        }
                        None => None,
                    },
                    y: (
                        self.launcher.window(NAME, &y, row * columns * size, rows * columns * size)?,
                        y.dtype,
                    ),
                    act: y.dtype,
                    extents: [rows, outputs, k],
                    batches: 1,
                    a_strides: [k, 0],
                    b_strides: [k, 1, 0],
                    b_sharing: 1,
                    y_strides: [columns, 0],
                    y_at: op.first_output as u64 + output,
                    scale: 1.0,
                };
                product(&self.launcher, NAME, &of)?;
            }
        }
        Ok(())
    }
}

/// Runs a product, with small tiles if there are few rows; an element is summed the same way in either.
pub(super) fn product(
    launcher: &Launcher,
    kernel: &'static str,
    of: &Product<'_>,
) -> Result<(), DeviceError> {
    let per_thread = if of.extents[0] <= TILE { 1u64 } else { 4 };
    let mut reads = vec![of.a.1, of.b.1];
    let mut windows = vec![of.a.0, of.b.0];
    if let Some((window, dtype)) = of.bias {
        reads.push(dtype);
        windows.push(window);
    }
    windows.push(of.y.0);
    let program = &PROGRAMS[usize::from(per_thread > 1)][usize::from(of.bias.is_some())];
    let key = Key { act: of.act, ..Key::new(program, &reads, of.y.1) };
    let [rows, columns, inner] = of.extents;
    let y_at = u64::from(of.y.0.skip_elements(activation(kernel, of.y.1)?)) + of.y_at;
    let groups = [columns.div_ceil(TILE * 4), rows.div_ceil(TILE * per_thread), of.batches];
    let words = |n: &[u64]| -> Result<Vec<u32>, DeviceError> {
        n.iter().map(|&n| count(kernel, n as usize)).collect()
    };
    let mut parameters = words(&[rows, columns, inner])?;
    parameters.push(of.a.0.skip);
    parameters.extend(words(&of.a_strides)?);
    parameters.push(of.b.0.skip);
    parameters.extend(words(&of.b_strides)?);
    parameters.extend(words(&[of.b_sharing])?);
    parameters.push(of.bias.map_or(0, |(window, _)| window.skip));
    parameters.extend(words(&[y_at])?);
    parameters.extend(words(&of.y_strides)?);
    parameters.push(of.scale.to_bits());
    launcher.run(key, &windows, &parameters, groups.map(|n| n as u32))
}
