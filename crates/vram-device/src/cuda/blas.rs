//! Products by cublasLt whose elements depend only on their own row of the input and their own row of the
//! weight.
//!
//! The library chooses an algorithm by all extents, and different algorithms sum in different orders. We
//! choose one for each inner extent and dtype, always from the same shape. It must not split the inner
//! extent, and must show in a trial that single rows and single outputs have the same bits as among others.
//! It writes f32 sums to a workspace, from which our own kernel adds the bias, rounds once and writes the
//! result anywhere. Weights and inputs that are not aligned to 16 bytes are first copied to the workspace, a
//! piece at a time, so that alignment does not matter either. The fast algorithms of recent cards compute
//! outputs only in eights, so the last few are computed with unused rows behind them. They also refuse some
//! shapes, which we cut until they are accepted. Neither changes a bit. If no algorithm passes, our own
//! kernels compute all products of that inner extent and dtype.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use vram_types::DType;

use super::context::{AtEnd, Context};
use super::cublas::{ALIGNMENT, Algorithm, Library, Shape, data_type};
use super::driver;
use super::launch::{Arg, Launcher, over};
use super::operand::{Operand, activation};
use super::program::{Key, Program};
use super::transfer::Readback;
use crate::{DeviceError, Queue};

/// Sizes of the parts of the workspace in bytes: pieces of unaligned weights and inputs, then the sums, then
/// the findings of a trial.
const WEIGHT: u64 = 16 << 20;
const INPUT: u64 = 8 << 20;
const SUMS: u64 = 16 << 20;
const FOUND: u64 = 256;

/// Rows that are computed at a time.
const ROWS: u64 = 1024;

/// Rows and outputs of the shape that algorithms are chosen from.
const CANONICAL: (u64, u64) = (256, 4096);

/// Outputs are computed in multiples of this.
const OUTPUTS: u64 = 8;

/// Most rows and outputs of a trial: whole tiles of any kind, and a remainder.
const TRIAL: (u64, u64) = (257, 520);

pub(super) static PROGRAM: Program = Program {
    name: "blas",
    source: concat!(include_str!("ops/common.cu"), include_str!("blas.cu")),
    kernels: &["finish", "fill", "clear", "compare"],
    by_weight: false,
};

/// `y = x W^T + b`, checked.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) x: Operand,
    pub(super) weight: Operand,
    pub(super) bias: Option<Operand>,
    /// Where the first row's first output goes.
    pub(super) y: u64,
    pub(super) rows: u32,
    pub(super) outputs: u32,
    pub(super) inner: u32,
    /// Elements from one row of `y` to the next.
    pub(super) columns: u64,
}

impl Product {
    /// The dtype of `x` and `y`, which the weight is rounded to.
    pub(super) fn act(&self) -> DType {
        self.x.dtype
    }
}

/// Products by cublasLt.
pub(super) struct Blas {
    library: Library,
    workspace: u64,
    /// Held while several kernels that share the workspace are issued.
    alone: Mutex<()>,
    /// For reading back the findings of trials.
    readback: Arc<Readback>,
    /// By inner extent and dtype; `None` if no algorithm passed.
    chosen: Mutex<HashMap<(u32, DType), Option<Algorithm>>>,
}

impl Blas {
    /// Bytes of device memory that it takes.
    pub(super) const WORKSPACE: u64 = WEIGHT + INPUT + SUMS + FOUND;

    /// The library has been probed.
    pub(super) fn new(context: &Context, readback: &Arc<Readback>) -> Result<Arc<Blas>, DeviceError> {
        let (library, workspace) =
            context.with(|| context.measured(|reserve| &mut reserve.workspace, Blas::set_up))?;
        let (alone, chosen) = (Mutex::new(()), Mutex::default());
        let blas = Arc::new(Blas { library, workspace, alone, readback: Arc::clone(readback), chosen });
        context.at_end(Arc::<Blas>::clone(&blas));
        Ok(blas)
    }

    fn set_up() -> Result<(Library, u64), DeviceError> {
        let library = Library::new()?;
        match driver::allocate(Blas::WORKSPACE) {
            Ok(workspace) => Ok((library, workspace)),
            Err(error) => {
                library.destroy();
                Err(error)
            }
        }
    }

    /// Whether the library is used at all, by inner extent and dtypes alone.
    pub(super) fn takes(&self, of: &Product) -> bool {
        let row = u64::from(of.inner) * u64::from(of.act().bits()) / 8;
        data_type(of.act()).is_some()
            && of.weight.dtype == of.act()
            && row > 0
            && row.is_multiple_of(ALIGNMENT)
            && row * 16 <= INPUT
    }

    /// Issues a product, or reports that no algorithm is suitable for its inner extent and dtype.
    pub(super) fn product(&self, launcher: &Launcher, of: &Product) -> Result<bool, DeviceError> {
        // Others use the same workspace.
        let _alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let context = &*launcher.context;
        let Some(algorithm) = self.algorithm(launcher, of.inner, of.act())? else { return Ok(false) };
        let size = activation("linear", of.act())?;
        let row = u64::from(of.inner) * size;
        let (all_rows, all_outputs) = (u64::from(of.rows), u64::from(of.outputs));
        let rows_at_once = all_rows.min(ROWS).min(INPUT / row);
        let weight_is_askew = !of.weight.pointer.is_multiple_of(ALIGNMENT);
        let fit = SUMS / 4 / rows_at_once;
        let fit = if weight_is_askew { fit.min(WEIGHT / row) } else { fit };
        let whole = all_outputs / OUTPUTS * OUTPUTS;
        let rest = (whole < all_outputs).then_some((whole, all_outputs - whole));
        for (output, outputs) in pieces(whole, fit / OUTPUTS * OUTPUTS).chain(rest) {
            let weight = of.weight.pointer + output * row;
            let weight = if weight_is_askew || outputs < OUTPUTS {
                self.copy(context, weight, outputs * row, self.workspace)?
            } else {
                weight
            };
            let padded = outputs.next_multiple_of(OUTPUTS);
            for (first, rows) in pieces(all_rows, rows_at_once) {
                let x = of.x.pointer + first * row;
                let x = if x.is_multiple_of(ALIGNMENT) {
                    x
                } else {
                    self.copy(context, x, rows * row, self.workspace + WEIGHT)?
                };
                let shape = Shape {
                    dtype: of.act(),
                    rows,
                    outputs: padded,
                    inner: u64::from(of.inner),
                    pitch: padded,
                };
                self.multiply(context, &algorithm, &shape, (weight, x, self.sums()))?;
                let (bias, bias_dtype) = match of.bias {
                    Some(bias) => (bias.pointer + output * u64::from(bias.dtype.bits()) / 8, bias.number),
                    None => (0, 0),
                };
                let y = of.y + (first * of.columns + output) * size;
                let args = [
                    Arg::Pointer(self.sums()),
                    Arg::Long(padded),
                    Arg::Pointer(bias),
                    Arg::Int(bias_dtype),
                    Arg::Pointer(y),
                    Arg::Long(of.columns),
                    Arg::Int(outputs as u32),
                ];
                let blocks = [over(outputs)[0], rows, 1];
                launcher.launch(Key::new(&PROGRAM, of.act()), "finish", blocks, &args)?;
            }
        }
        Ok(true)
    }

    fn sums(&self) -> u64 {
        self.workspace + WEIGHT + INPUT
    }

    /// Copies bytes to `room`, which is aligned to 16.
    fn copy(&self, context: &Context, from: u64, bytes: u64, room: u64) -> Result<u64, DeviceError> {
        context.with(|| {
            let stream = &context.timeline(Queue::Compute).stream;
            // SAFETY: callers copy no more bytes at once than the room has, and only bytes of their operand;
            // operands and workspace are freed after what was issued.
            unsafe { driver::copy_within(room, from, bytes, stream) }
        })?;
        Ok(room)
    }

    /// A product of whole [`OUTPUTS`], in as many pieces as the algorithm needs: halves of the rows, then of
    /// the outputs.
    fn multiply(
        &self,
        context: &Context,
        algorithm: &Algorithm,
        shape: &Shape,
        operands: (u64, u64, u64),
    ) -> Result<(), DeviceError> {
        if self.accepts(context, algorithm, shape, operands)? {
            return Ok(());
        }
        let (weight, x, sums) = operands;
        let row = shape.inner * activation("linear", shape.dtype)?;
        if shape.rows > 1 {
            let first = shape.rows / 2;
            let rest = (weight, x + first * row, sums + first * shape.pitch * 4);
            self.multiply(context, algorithm, &Shape { rows: first, ..*shape }, operands)?;
            return self.multiply(context, algorithm, &Shape { rows: shape.rows - first, ..*shape }, rest);
        }
        if shape.outputs > OUTPUTS {
            let first = (shape.outputs / 2).next_multiple_of(OUTPUTS);
            let rest = (weight + first * row, x, sums + first * 4);
            self.multiply(context, algorithm, &Shape { outputs: first, ..*shape }, operands)?;
            let outputs = shape.outputs - first;
            return self.multiply(context, algorithm, &Shape { outputs, ..*shape }, rest);
        }
        let reason = format!("an algorithm that passed its trial refuses {shape:?}");
        Err(DeviceError::Failed { what: "cublasLtMatmul", reason })
    }

    /// Issues a product, unless the algorithm refuses its shape.
    fn accepts(
        &self,
        context: &Context,
        algorithm: &Algorithm,
        shape: &Shape,
        operands: (u64, u64, u64),
    ) -> Result<bool, DeviceError> {
        context.with(|| {
            let stream = &context.timeline(Queue::Compute).stream;
            // SAFETY: callers give operands of the shape's extents, and sums within the workspace; all is
            // freed behind what was issued.
            unsafe { self.library.multiply(algorithm, shape, operands, stream) }
        })
    }

    /// The algorithm of an inner extent and dtype, chosen on first use.
    fn algorithm(
        &self,
        launcher: &Launcher,
        inner: u32,
        dtype: DType,
    ) -> Result<Option<Algorithm>, DeviceError> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&algorithm) = chosen.get(&(inner, dtype)) {
            return Ok(algorithm);
        }
        let found = self.choose(launcher, u64::from(inner), dtype)?;
        if found.is_none() {
            launcher.context.note(format!(
                "no cublasLt algorithm is suitable for {inner} inputs in {dtype}: our own kernel is used"
            ));
        }
        chosen.insert((inner, dtype), found);
        Ok(found)
    }

    fn choose(
        &self,
        launcher: &Launcher,
        inner: u64,
        dtype: DType,
    ) -> Result<Option<Algorithm>, DeviceError> {
        let context = &*launcher.context;
        let (rows, outputs) = CANONICAL;
        let shape = Shape { dtype, rows, outputs, inner, pitch: outputs };
        let candidates = context.with(|| {
            context.measured(|reserve| &mut reserve.libraries, || self.library.candidates(&shape))
        })?;
        for algorithm in candidates {
            if self.passes(launcher, &algorithm, inner, dtype)? {
                return Ok(Some(algorithm));
            }
        }
        Ok(None)
    }

    /// Whether single rows, single outputs and a corner have the same bits as among others, on random
    /// numbers.
    fn passes(
        &self,
        launcher: &Launcher,
        algorithm: &Algorithm,
        inner: u64,
        dtype: DType,
    ) -> Result<bool, DeviceError> {
        let context = &*launcher.context;
        let row = inner * activation("linear", dtype)?;
        let (rows, outputs) = (TRIAL.0.min(INPUT / row), TRIAL.1.min(WEIGHT / row / OUTPUTS * OUTPUTS));
        let key = Key::new(&PROGRAM, dtype);
        let (weight, x) = (self.workspace, self.workspace + WEIGHT);
        for (seed, (at, count)) in [(weight, outputs), (x, rows)].into_iter().enumerate() {
            let args = [Arg::Pointer(at), Arg::Long(count * inner), Arg::Int(seed as u32 + 1)];
            launcher.launch(key, "fill", over(count * inner), &args)?;
        }
        let found = self.sums() + SUMS;
        launcher.launch(key, "clear", [1, 1, 1], &[Arg::Pointer(found)])?;
        let shape = Shape { dtype, rows, outputs, inner, pitch: outputs };
        if !self.accepts(context, algorithm, &shape, (weight, x, self.sums()))? {
            return Ok(false);
        }
        // After the sums of the whole product.
        let part = self.sums() + SUMS / 2;
        let (few_rows, few_outputs) = (rows.min(17), outputs.min(2 * OUTPUTS));
        let parts = [(1, OUTPUTS), (1, outputs), (rows, OUTPUTS), (few_rows, few_outputs)];
        for (rows_alone, outputs_alone) in parts.into_iter().chain([(rows - 1, outputs - OUTPUTS)]) {
            // The last ones, which are in a tile's remainder.
            let (row0, output0) = (rows - rows_alone, outputs - outputs_alone);
            let shape =
                Shape { dtype, rows: rows_alone, outputs: outputs_alone, inner, pitch: outputs_alone };
            let operands = (weight + output0 * row, x + row0 * row, part);
            if !self.accepts(context, algorithm, &shape, operands)? {
                return Ok(false);
            }
            let args = [
                Arg::Pointer(self.sums() + (row0 * outputs + output0) * 4),
                Arg::Long(outputs),
                Arg::Pointer(part),
                Arg::Long(outputs_alone),
                Arg::Int(outputs_alone as u32),
                Arg::Pointer(found),
            ];
            launcher.launch(key, "compare", [over(outputs_alone)[0], rows_alone, 1], &args)?;
        }
        // SAFETY: it is the last word of the workspace, which lives until the context is destroyed.
        Ok(unsafe { self.readback.word(context, found) }? == 0)
    }
}

impl AtEnd for Blas {
    fn end(&self) {
        // SAFETY: allocated in `new`, and nothing that was issued still runs. An error has no one to go to.
        let _ = unsafe { driver::free(self.workspace) };
        self.library.destroy();
    }
}

/// `0..n` in pieces: where each begins, and how long it is.
fn pieces(n: u64, at_once: u64) -> impl Iterator<Item = (u64, u64)> {
    let at_once = at_once.max(1);
    let mut first = 0;
    std::iter::from_fn(move || {
        (first < n).then(|| {
            let piece = (first, at_once.min(n - first));
            first += piece.1;
            piece
        })
    })
}
