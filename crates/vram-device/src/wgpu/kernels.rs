//! Launching kernels: what each run of one sees and computes.
//!
//! Operands that are larger than what the adapter binds are taken in pieces, by rows or by elements. A piece is computed as
//! it would be among others, so that limits change no bit.

use vram_types::DType;

use super::context::Context;
use super::operand::{Operand, Window, activation, count, stored};
use super::pipeline::{Key, Kind};
use super::queue::Dispatch;
use crate::{AttentionArgs, DeviceError, LinearArgs, View, ViewMut};

/// Ids that a run of the gather takes with its parameters.
const IDS: usize = 4096;

/// Groups along one dimension that every adapter runs.
const GROUPS: u64 = 65535;

/// Threads of a group, in kernels over elements.
const GROUP: u64 = 64;

/// Rows and columns of a tile per thread along either edge.
const TILE: u64 = 16;

/// Bytes of scores that attention computes at a time, as far as a query or more fits.
const SCORES: u64 = 4 << 20;

/// Queries at a time, more of which bring nothing.
const QUERIES: u64 = 64;

/// A product for every batch: `y[i, j] = scale * sum a[i, k] b[j, k] + bias[j]`, strides in elements.
#[derive(Clone, Copy)]
struct Product<'a> {
    a: (Window<'a>, DType),
    b: (Window<'a>, DType),
    bias: Option<(Window<'a>, DType)>,
    y: (Window<'a>, DType),
    act: DType,
    extents: [u64; 3],
    batches: u64,
    a_strides: [u64; 2],
    b_strides: [u64; 3],
    y_strides: [u64; 2],
    /// Elements from the beginning of y on.
    y_at: u64,
    scale: f32,
}

impl Context {
    pub(super) fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear";
        let (m, k) = (args.x.shape().rows() as u64, args.x.shape().last() as u64);
        let (n, columns) = (args.weight.shape().rows() as u64, y.shape().last() as u64);
        let (x, weight) = (self.read(NAME, &args.x)?, self.read(NAME, &args.weight)?);
        let bias = args.bias.as_ref().map(|bias| self.read(NAME, bias)).transpose()?;
        self.read(NAME, &args.packed)?;
        let y = self.write(NAME, y)?;
        let (size, stored_size) = (activation(NAME, y.dtype)?, stored(NAME, weight.dtype)?);
        let rows = self.rows_at_once(NAME, k.max(columns) * size)?.min(GROUPS * TILE);
        let outputs = self.rows_at_once(NAME, k * stored_size)?.min(GROUPS * TILE);
        for (row, rows) in pieces(m, rows) {
            for (output, outputs) in pieces(n, outputs) {
                let product = Product {
                    a: (self.window(NAME, &x, row * k * size, rows * k * size)?, x.dtype),
                    b: (
                        self.window(NAME, &weight, output * k * stored_size, outputs * k * stored_size)?,
                        weight.dtype,
                    ),
                    bias: match &bias {
                        Some(bias) => {
                            let size = stored(NAME, bias.dtype)?;
                            Some((self.window(NAME, bias, output * size, outputs * size)?, bias.dtype))
                        }
                        None => None,
                    },
                    y: (self.window(NAME, &y, row * columns * size, rows * columns * size)?, y.dtype),
                    act: y.dtype,
                    extents: [rows, outputs, k],
                    batches: 1,
                    a_strides: [k, 0],
                    b_strides: [k, 1, 0],
                    y_strides: [columns, 0],
                    y_at: args.first_output as u64 + output,
                    scale: 1.0,
                };
                self.product(NAME, &product)?;
            }
        }
        Ok(())
    }

    /// Runs a product, with small tiles where there are few rows; an element is summed alike in either.
    fn product(&self, kernel: &'static str, of: &Product<'_>) -> Result<(), DeviceError> {
        let per_thread = if of.extents[0] <= TILE { 1 } else { 4 };
        let mut reads = vec![of.a.1, of.b.1];
        let mut windows = vec![of.a.0, of.b.0];
        if let Some((window, dtype)) = of.bias {
            reads.push(dtype);
            windows.push(window);
        }
        windows.push(of.y.0);
        let kind = Kind::Matmul { rows: per_thread };
        let key = Key { act: of.act, ..Key::new(kind, &reads, of.y.1) };
        let [rows, columns, inner] = of.extents;
        let y_at = u64::from(of.y.0.skip_elements(activation(kernel, of.y.1)?)) + of.y_at;
        let groups = [columns.div_ceil(TILE * 4), rows.div_ceil(TILE * u64::from(per_thread)), of.batches];
        let words = |n: &[u64]| -> Result<Vec<u32>, DeviceError> {
            n.iter().map(|&n| count(kernel, n as usize)).collect()
        };
        let mut parameters = words(&[rows, columns, inner])?;
        parameters.push(of.a.0.skip);
        parameters.extend(words(&of.a_strides)?);
        parameters.push(of.b.0.skip);
        parameters.extend(words(&of.b_strides)?);
        parameters.push(of.bias.map_or(0, |(window, _)| window.skip));
        parameters.extend(words(&[y_at])?);
        parameters.extend(words(&of.y_strides)?);
        parameters.push(of.scale.to_bits());
        self.run(key, &windows, &parameters, groups.map(|n| n as u32))
    }

    pub(super) fn norm(
        &self,
        (name, kind): (&'static str, Kind),
        x: &View<'_>,
        affine: &[&View<'_>],
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        let (m, width) = (x.shape().rows() as u64, x.shape().last() as u64);
        let x = self.read(name, x)?;
        let y = self.write(name, y)?;
        let row = width * activation(name, y.dtype)?;
        let mut reads = vec![x.dtype];
        let mut affine_windows = Vec::new();
        for view in affine {
            let operand = self.read(name, view)?;
            reads.push(operand.dtype);
            affine_windows.push(self.whole(name, &operand)?);
        }
        let skip = |i: usize| affine_windows.get(i).map_or(0, |window: &Window<'_>| window.skip);
        let (weight, bias) = (skip(0), skip(1));
        let key = Key::new(kind, &reads, y.dtype);
        for (first, rows) in pieces(m, self.rows_at_once(name, row)?) {
            let x = self.window(name, &x, first * row, rows * row)?;
            let y = self.window(name, &y, first * row, rows * row)?;
            let windows: Vec<_> = [x].into_iter().chain(affine_windows.iter().copied()).chain([y]).collect();
            let y_at = y.skip_elements(row / width.max(1));
            let all = [rows as u32, width as u32, x.skip, weight, bias, y_at, eps.to_bits()];
            self.run(key, &windows, &all, flat(rows))?;
        }
        Ok(())
    }

    /// A kernel over elements, in place or from `x`.
    pub(super) fn elements(
        &self,
        (name, kind): (&'static str, Kind),
        x: Option<&View<'_>>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        let elements = y.meta().elements();
        let y = self.write(name, y)?;
        let size = activation(name, y.dtype)?;
        let x = x.map(|x| self.read(name, x)).transpose()?;
        let x_size = x.map_or(Ok(size), |x| stored(name, x.dtype))?;
        let key = Key::new(kind, &x.map_or(vec![], |x| vec![x.dtype]), y.dtype);
        for (first, n) in pieces(elements, self.rows_at_once(name, size.max(x_size))? & !3) {
            let y = self.window(name, &y, first * size, n * size)?;
            let mut windows = Vec::with_capacity(2);
            let mut skip = 0;
            if let Some(x) = &x {
                let x = self.window(name, x, first * x_size, n * x_size)?;
                skip = x.skip;
                windows.push(x);
            }
            windows.push(y);
            let parameters = [n as u32, skip, y.skip_elements(size)];
            self.run(key, &windows, &parameters, over_words(y.skip, n * size))?;
        }
        Ok(())
    }

    pub(super) fn gather(
        &self,
        table: &View<'_>,
        ids: &[u32],
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "gather";
        let width: usize = table.shape().iter().skip(1).product();
        let all = table.shape().first().copied().unwrap_or(0) as u64;
        let table = self.read(NAME, table)?;
        let y = self.write(NAME, y)?;
        let (row, stored_row) =
            (width as u64 * activation(NAME, y.dtype)?, width as u64 * stored(NAME, table.dtype)?);
        let key = Key::new(Kind::Gather, &[table.dtype], y.dtype);
        let at_once = self.rows_at_once(NAME, row)?.min(IDS as u64) as usize;
        for (i, ids) in ids.chunks(at_once).enumerate() {
            let (from, bytes) = ((i * at_once) as u64 * row, ids.len() as u64 * row);
            let to = self.window(NAME, &y, from, bytes)?;
            for (first, rows) in pieces(all, self.rows_at_once(NAME, stored_row)?) {
                let end = first + rows;
                if !ids.iter().any(|&id| (first..end).contains(&u64::from(id))) {
                    continue;
                }
                let part = self.window(NAME, &table, first * stored_row, rows * stored_row)?;
                let elements = count(NAME, ids.len() * width)?;
                let y_at = to.skip_elements(row / (width as u64).max(1));
                let mut parameters =
                    vec![elements, width as u32, part.skip, y_at, first as u32, end as u32, 0, 0];
                parameters.extend(ids);
                parameters.resize(8 + IDS, 0);
                self.run(key, &[part, to], &parameters, over_words(to.skip, bytes))?;
            }
        }
        Ok(())
    }

    /// How many queries are attended to at a time: by the number of keys and heads and by the adapter alone, since it sizes
    /// the scratch.
    pub(super) fn queries_at_once(&self, keys: u64, heads: u64) -> u64 {
        let one = (keys * heads * 4).max(1);
        let room = SCORES.min(self.max_binding.saturating_sub(self.alignment + 4));
        (room / one).clamp(1, QUERIES)
    }

    pub(super) fn attention(
        &self,
        args: &AttentionArgs<'_>,
        scratch: &mut ViewMut<'_>,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "attention";
        let (queries, keys) = (args.q.shape().rows() as u64, args.k.shape().rows() as u64);
        let (width, heads) = (args.q.shape().last() as u64, args.heads as u64);
        let dim = width / heads;
        let [q, k, v] = [self.read(NAME, &args.q)?, self.read(NAME, &args.k)?, self.read(NAME, &args.v)?];
        let y = self.write(NAME, y)?;
        let act = y.dtype;
        let size = activation(NAME, act)?;
        if queries * width == 0 {
            return Ok(());
        }
        if keys == 0 {
            return Err(DeviceError::shape(NAME, "there are no keys to attend to"));
        }
        let scores = Operand { dtype: DType::F32, ..self.write(NAME, scratch)? };
        if !scores.at.is_multiple_of(4) {
            return Err(DeviceError::shape(NAME, "the scratch does not begin at a multiple of 4 bytes"));
        }
        let (k, v) = (self.whole(NAME, &k)?, self.whole(NAME, &v)?);
        for (first, rows) in pieces(queries, self.queries_at_once(keys, heads)) {
            let (from, bytes) = (first * width * size, rows * width * size);
            let q = self.window(NAME, &q, from, bytes)?;
            let y = self.window(NAME, &y, from, bytes)?;
            let s = self.window(NAME, &scores, 0, rows * keys * heads * 4)?;
            let to_keys = Product {
                a: (q, act),
                b: (k, act),
                bias: None,
                y: (s, DType::F32),
                act: DType::F32,
                extents: [rows, keys, dim],
                batches: heads,
                a_strides: [width, dim],
                b_strides: [width, 1, dim],
                y_strides: [keys, rows * keys],
                y_at: 0,
                scale: args.scale,
            };
            self.product(NAME, &to_keys)?;
            let softmax = Key::new(Kind::Softmax, &[], DType::F32);
            let parameters = [(rows * heads) as u32, keys as u32, s.skip_elements(4)];
            self.run(softmax, &[s], &parameters, flat(rows * heads))?;
            let of_values = Product {
                a: (s, DType::F32),
                b: (v, act),
                y: (y, act),
                extents: [rows, dim, keys],
                a_strides: [keys, rows * keys],
                b_strides: [1, width, dim],
                y_strides: [width, dim],
                scale: 1.0,
                ..to_keys
            };
            self.product(NAME, &of_values)?;
        }
        Ok(())
    }

    fn run(
        &self,
        key: Key,
        windows: &[Window<'_>],
        parameters: &[u32],
        groups: [u32; 3],
    ) -> Result<(), DeviceError> {
        let pipeline = self.pipelines.get(&self.device, key)?;
        let dispatch = Dispatch { pipeline: &pipeline, windows, parameters, groups };
        self.stream()?.dispatch(self, dispatch).map(drop)
    }
}

/// `0..n` in pieces: where each begins, and how long it is.
fn pieces(n: u64, at_once: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = usize::try_from(at_once.max(1)).unwrap_or(usize::MAX);
    (0..n).step_by(step).map(move |first| (first, at_once.max(1).min(n - first)))
}

/// So many groups, in two dimensions where one does not hold them.
fn flat(groups: u64) -> [u32; 3] {
    let wide = groups.min(GROUPS);
    [wide as u32, groups.div_ceil(wide.max(1)) as u32, 1]
}

/// Groups for a thread to each word of `bytes` bytes that begin `skip` bytes into a window.
fn over_words(skip: u32, bytes: u64) -> [u32; 3] {
    flat((u64::from(skip) % 4 + bytes).div_ceil(4).div_ceil(GROUP))
}
