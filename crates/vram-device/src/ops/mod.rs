//! Operations as data: what each computes, on which shapes, and what it costs.
//!
//! An operation is a struct with the [`View`]s that it reads, the [`ViewMut`]s that it writes, and its
//! parameters. Its file has the formula, the supported shapes, and its cost. [`Op`] is any of them. A backend
//! receives operations whose shapes have been checked ([`Checked`]), and answers [`DeviceError::Unsupported`]
//! for those that it does not support.
//!
//! ```
//! use vram_device::{Budget, Device, KernelsExt, Lifetime, Tier, View, ViewMut, cpu::Cpu, ops};
//! use vram_types::{DType, TensorMeta};
//!
//! let cpu = Cpu::new(Default::default())?;
//! let meta = TensorMeta::new(DType::F32, [2])?;
//! let x: Vec<u8> = [1f32, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
//! let mut y: Vec<u8> = [10f32, 20.0].iter().flat_map(|v| v.to_le_bytes()).collect();
//! let add = ops::Binary::add(View::host(&x, meta.clone())?, ViewMut::host(&mut y, meta)?);
//! cpu.call(add, None)?;
//! assert_eq!(y[..4], 11f32.to_le_bytes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To add an operation, write its file here, add it to the list below, and write one file in the conformance
//! suite and one in each backend that has a kernel for it.

mod attention;
mod binary;
mod cast;
mod check;
mod custom;
mod gated;
mod gather;
mod group_norm;
mod im2col;
mod layer_norm;
mod linear;
mod modulate;
mod operation;
mod rms_norm;
mod rotary;
mod scaled_add;
mod strided_copy;
mod top_k;
mod unary;
mod upsample;

pub use binary::{BinaryKind, Broadcast};
pub use custom::CustomOp;
pub use im2col::Window;
pub use linear::Activations;
pub use operation::{Operation, Places};
pub use rotary::RotaryForm;
pub use strided_copy::{Axes, Axis};
pub use unary::UnaryKind;

use operation::{Field, operations};

use crate::{DeviceError, View, ViewMut};

operations! {
    /// `y = x W^T + b`.
    linear::Linear,
    /// Rows of a table by their numbers.
    gather::Gather,
    /// Root-mean-square normalisation of rows.
    rms_norm::RmsNorm,
    /// Normalisation of rows to mean 0 and variance 1.
    layer_norm::LayerNorm,
    /// Group normalisation of channels-last tensors.
    group_norm::GroupNorm,
    /// A function of each element, in place.
    unary::Unary,
    /// A gated activation.
    gated::Gated,
    /// Two tensors combined element by element.
    binary::Binary,
    /// Rows scaled and shifted.
    modulate::Modulate,
    /// A gated residual.
    scaled_add::ScaledAdd,
    /// Rotary position embedding.
    rotary::Rotary,
    /// Softmax attention.
    attention::Attention,
    /// The windows of a convolution as rows.
    im2col::Im2col,
    /// Nearest-neighbour upsampling of channels-last tensors.
    upsample::Upsample,
    /// Elements copied by strides.
    strided_copy::StridedCopy,
    /// The largest elements of each row.
    top_k::TopK,
    /// A change of dtype.
    cast::Cast,
    /// An operation of the user's own.
    custom::Custom,
}

impl<'a> Op<'a> {
    /// Checks the shapes.
    ///
    /// # Errors
    /// See [`Operation::check`].
    pub fn checked(self) -> Result<Checked<'a>, DeviceError> {
        self.check()?;
        Ok(Checked(self))
    }

    /// Calls `f` with each tensor that is read, in the order of the operation's fields. A tensor that is
    /// changed in place is only among [those written](Op::for_each_write).
    pub fn for_each_read(&self, mut f: impl FnMut(&View<'_>)) {
        self.reads(&mut f);
    }

    /// Calls `f` with each tensor that is written, in the order of the operation's fields.
    pub fn for_each_write(&self, mut f: impl FnMut(&ViewMut<'_>)) {
        self.writes(&mut f);
    }

    /// The same operation over other memory.
    ///
    /// # Errors
    /// Errors of `places`.
    pub fn rebind<'b>(&self, places: &mut dyn Places<'b>) -> Result<Op<'b>, DeviceError> {
        self.at(places)
    }

    /// The error of a backend that has no kernel for this operation.
    pub fn unsupported(&self, why: impl Into<String>) -> DeviceError {
        DeviceError::unsupported(self.name(), why)
    }
}

/// An operation whose tensors fit together, as backends receive it.
#[derive(Debug)]
pub struct Checked<'a>(Op<'a>);

impl<'a> Checked<'a> {
    /// The operation.
    pub fn op(&self) -> &Op<'a> {
        &self.0
    }

    /// The operation itself. If you change it, it has to be checked again.
    pub fn into_op(self) -> Op<'a> {
        self.0
    }
}
