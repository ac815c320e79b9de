//! Launching kernels: which program, how many blocks, and the arguments.

use std::ffi::c_void;
use std::sync::PoisonError;

use smallvec::SmallVec;
use vram_types::DType;

use super::context::Context;
use super::operand::{Operand, activation, count};
use super::program::{Family, Key, Origin};
use crate::{AttentionArgs, DeviceError, LinearArgs, Queue, View, ViewMut};

/// Threads of a block.
const THREADS: u32 = 256;

/// Ids that a run of the gather takes with its arguments: the `Ids` of `rows.cu`.
const IDS: usize = 900;

/// Blocks along the second and third dimension.
const BLOCKS: u64 = 65535;

/// Rows up to which the low tile of a product is used.
const LOW: u32 = 32;

/// An argument of a kernel, by its type there.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// A pointer, 0 for none.
    Pointer(u64),
    /// `u64`.
    Long(u64),
    /// `u32`.
    Int(u32),
    /// `float`.
    Float(f32),
    /// `Ids`.
    Ids(&'a [u32; IDS]),
}

impl Arg<'_> {
    /// Where its value lies.
    fn place(&self) -> *mut c_void {
        // The driver reads arguments and does not write them.
        let pointer: *const c_void = match self {
            Arg::Pointer(value) | Arg::Long(value) => std::ptr::from_ref(value).cast(),
            Arg::Int(value) => std::ptr::from_ref(value).cast(),
            Arg::Float(value) => std::ptr::from_ref(value).cast(),
            Arg::Ids(ids) => std::ptr::from_ref(*ids).cast(),
        };
        pointer.cast_mut()
    }
}

impl Context {
    /// Issues a kernel on the compute stream. The arguments are those of the kernel's parameters in `kernels/*.cu`, in their
    /// order, and what they point to is of this device and as large as the kernel takes it to be.
    pub(super) fn launch(
        &self,
        key: Key,
        name: &'static str,
        blocks: [u64; 3],
        args: &[Arg<'_>],
    ) -> Result<(), DeviceError> {
        let mut grid = [0; 3];
        for (to, blocks) in grid.iter_mut().zip(blocks) {
            *to = u32::try_from(blocks)
                .map_err(|_| DeviceError::shape(name, "more blocks than a card runs"))?;
        }
        if grid.contains(&0) {
            return Ok(());
        }
        if blocks[0] > i32::MAX as u64 || blocks[1..].iter().any(|&n| n > BLOCKS) {
            return Err(DeviceError::shape(name, format!("{blocks:?} blocks are more than a card runs")));
        }
        self.with(|| {
            let function = match self.programs.find(key, name) {
                Some(function) => function,
                None => self.program(key, name)?,
            };
            let mut places: SmallVec<[*mut c_void; 16]> = args.iter().map(Arg::place).collect();
            let stream = &self.timeline(Queue::Compute).stream;
            // SAFETY: callers give what the kernel takes (see above; each call stands in this module or in `blas` beside the
            // parameters); views and the workspace lie in memory that is freed behind what was issued (`Context::free`);
            // programs are unloaded with the context alone.
            unsafe { function.launch(grid, THREADS, &mut places, stream) }
        })
    }

    /// Loads the program of a kernel, which may compile it.
    fn program(&self, key: Key, name: &'static str) -> Result<super::driver::Function, DeviceError> {
        let origin = self.measured(|reserve| &mut reserve.libraries, || self.programs.load(key))?;
        if let Some(Origin::Compiled { not_kept: Some(why) }) = origin {
            self.note(format!("compiled kernels are not kept on disk: {why}"));
        }
        let missing = || DeviceError::Failed { what: name, reason: "its program has no such kernel".into() };
        self.programs.find(key, name).ok_or_else(missing)
    }

    pub(super) fn linear(&self, args: &LinearArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "linear";
        let (rows, inner) = (args.x.shape().rows(), args.x.shape().last());
        let (outputs, columns) = (args.weight.shape().rows(), y.shape().last());
        let (x, weight) = (self.read(NAME, &args.x)?, self.stored(NAME, &args.weight)?);
        let bias = args.bias.as_ref().map(|bias| self.stored(NAME, bias)).transpose()?;
        self.pointer(NAME, &args.packed)?;
        let y = self.write(NAME, y)?;
        let product = Product {
            x,
            weight,
            bias,
            y: y.pointer + args.first_output as u64 * activation(NAME, y.dtype)?,
            rows: count(NAME, rows)?,
            outputs: count(NAME, outputs)?,
            inner: count(NAME, inner)?,
            columns: columns as u64,
        };
        if rows == 0 || outputs == 0 {
            return Ok(());
        }
        match self.blas.get() {
            Some(blas) if blas.takes(&product) => {
                // Others use the same workspace.
                let _alone = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
                if blas.product(self, &product)? { Ok(()) } else { self.tiles(&product) }
            }
            _ => self.tiles(&product),
        }
    }

    /// A product by our own kernels.
    fn tiles(&self, of: &Product) -> Result<(), DeviceError> {
        let key = Key { family: Family::Linear, act: of.x.dtype, weight: Some(of.weight.dtype) };
        let (name, tall, wide) =
            if of.rows <= LOW { ("linear_low", 16, 64) } else { ("linear_high", 128, 128) };
        let bias = of.bias.map_or((0, 0), |bias| (bias.pointer, bias.number));
        let blocks = [u64::from(of.rows).div_ceil(tall), u64::from(of.outputs).div_ceil(wide), 1];
        let args = [
            Arg::Pointer(of.x.pointer),
            Arg::Pointer(of.weight.pointer),
            Arg::Pointer(bias.0),
            Arg::Int(bias.1),
            Arg::Pointer(of.y),
            Arg::Int(of.rows),
            Arg::Int(of.outputs),
            Arg::Int(of.inner),
            Arg::Long(of.columns),
        ];
        self.launch(key, name, blocks, &args)
    }

    pub(super) fn rms_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "rms_norm";
        let (rows, width) = (x.shape().rows() as u64, count(NAME, x.shape().last())?);
        let (x, weight, y) = (self.read(NAME, x)?, self.stored(NAME, weight)?, self.write(NAME, y)?);
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(weight.pointer),
            Arg::Int(weight.number),
            Arg::Float(eps),
            Arg::Pointer(y.pointer),
            Arg::Int(width),
        ];
        self.launch(Key::new(Family::Rows, y.dtype), NAME, [rows, 1, 1], &args)
    }

    pub(super) fn layer_norm(
        &self,
        x: &View<'_>,
        weight: &View<'_>,
        bias: &View<'_>,
        eps: f32,
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "layer_norm";
        let (rows, width) = (x.shape().rows() as u64, count(NAME, x.shape().last())?);
        let (x, weight) = (self.read(NAME, x)?, self.stored(NAME, weight)?);
        let (bias, y) = (self.stored(NAME, bias)?, self.write(NAME, y)?);
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(weight.pointer),
            Arg::Int(weight.number),
            Arg::Pointer(bias.pointer),
            Arg::Int(bias.number),
            Arg::Float(eps),
            Arg::Pointer(y.pointer),
            Arg::Int(width),
        ];
        self.launch(Key::new(Family::Rows, y.dtype), NAME, [rows, 1, 1], &args)
    }

    /// `x = f(x)`, by the number that `rows.cu` gives the function.
    pub(super) fn activate(&self, function: u32, x: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "activate";
        let elements = x.meta().elements();
        let x = self.write(NAME, x)?;
        let args = [Arg::Int(function), Arg::Pointer(x.pointer), Arg::Long(elements)];
        self.launch(Key::new(Family::Rows, x.dtype), NAME, over(elements), &args)
    }

    /// `y = y op x`, by the number that `rows.cu` gives the operation.
    pub(super) fn binary(&self, op: u32, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "binary";
        let elements = y.meta().elements();
        let (x, y) = (self.read(NAME, x)?, self.write(NAME, y)?);
        let args = [Arg::Int(op), Arg::Pointer(x.pointer), Arg::Pointer(y.pointer), Arg::Long(elements)];
        self.launch(Key::new(Family::Rows, y.dtype), NAME, over(elements), &args)
    }

    pub(super) fn cast(&self, x: &View<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "cast";
        let elements = y.meta().elements();
        let (x, y) = (self.stored(NAME, x)?, self.write(NAME, y)?);
        let args =
            [Arg::Pointer(x.pointer), Arg::Int(x.number), Arg::Pointer(y.pointer), Arg::Long(elements)];
        self.launch(Key::new(Family::Rows, y.dtype), NAME, over(elements), &args)
    }

    pub(super) fn gather(
        &self,
        table: &View<'_>,
        ids: &[u32],
        y: &mut ViewMut<'_>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "gather";
        let width = table.shape().iter().skip(1).product::<usize>() as u64;
        let (table, y) = (self.stored(NAME, table)?, self.write(NAME, y)?);
        let row = width * activation(NAME, y.dtype)?;
        for (i, ids) in ids.chunks(IDS).enumerate() {
            let mut padded = [0; IDS];
            padded[..ids.len()].copy_from_slice(ids);
            let args = [
                Arg::Pointer(table.pointer),
                Arg::Int(table.number),
                Arg::Pointer(y.pointer + (i * IDS) as u64 * row),
                Arg::Long(width),
                Arg::Ids(&padded),
            ];
            let blocks = [over(width)[0], ids.len() as u64, 1];
            self.launch(Key::new(Family::Rows, y.dtype), NAME, blocks, &args)?;
        }
        Ok(())
    }

    pub(super) fn attention(&self, args: &AttentionArgs<'_>, y: &mut ViewMut<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "attention";
        let (queries, keys) = (args.q.shape().rows(), args.k.shape().rows());
        let (width, heads) = (args.q.shape().last(), args.heads);
        let [q, k, v] = [self.read(NAME, &args.q)?, self.read(NAME, &args.k)?, self.read(NAME, &args.v)?];
        let y = self.write(NAME, y)?;
        if queries * width == 0 {
            return Ok(());
        }
        if keys == 0 {
            return Err(DeviceError::shape(NAME, "there are no keys to attend to"));
        }
        let dim = (width / heads) as u64;
        let (name, columns) = if dim <= 64 { ("attention_64", 64) } else { ("attention_128", 128) };
        let blocks = [(queries as u64).div_ceil(64), heads as u64, dim.div_ceil(columns)];
        let args = [
            Arg::Pointer(q.pointer),
            Arg::Pointer(k.pointer),
            Arg::Pointer(v.pointer),
            Arg::Pointer(y.pointer),
            Arg::Int(count(NAME, queries)?),
            Arg::Int(count(NAME, keys)?),
            Arg::Int(count(NAME, heads)?),
            Arg::Int(count(NAME, dim as usize)?),
            Arg::Float(args.scale),
        ];
        self.launch(Key::new(Family::Attention, y.dtype), name, blocks, &args)
    }
}

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
    /// The dtype of `x`, `y` and what the weight is rounded to.
    pub(super) fn act(&self) -> DType {
        self.x.dtype
    }
}

/// Blocks for a thread to each element.
pub(super) fn over(elements: u64) -> [u64; 3] {
    [elements.div_ceil(u64::from(THREADS)), 1, 1]
}
