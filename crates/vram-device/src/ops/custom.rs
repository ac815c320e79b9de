//! User-defined operations.

use std::fmt;
use std::sync::Arc;

use vram_types::TensorMeta;

use super::operation::{Field, Operation, Places, operation};
use crate::{DeviceError, View, ViewMut};

/// The computation of a user-defined operation. It runs on the CPU and on the simulated device; other
/// backends refuse it with [`DeviceError::Unsupported`].
///
/// ```
/// use std::sync::Arc;
/// use vram_device::{Device, DeviceError, KernelsExt, View, ViewMut, cpu::Cpu, ops};
/// use vram_types::{DType, TensorMeta};
///
/// #[derive(Debug)]
/// struct Reverse;
///
/// impl ops::CustomOp for Reverse {
///     fn name(&self) -> &'static str {
///         "reverse"
///     }
///     fn check(&self, reads: &[&TensorMeta], writes: &[&TensorMeta]) -> Result<(), DeviceError> {
///         match (reads, writes) {
///             ([x], [y]) if x == y && x.dtype() == DType::U8 => Ok(()),
///             _ => Err(DeviceError::Shape { op: self.name(), message: format!("{reads:?} to {writes:?}") }),
///         }
///     }
///     fn flops(&self, _: &[&TensorMeta], _: &[&TensorMeta]) -> u64 {
///         0
///     }
///     fn cpu(&self, reads: &[&[u8]], writes: &mut [&mut [u8]]) -> Result<(), DeviceError> {
///         writes[0].copy_from_slice(reads[0]);
///         writes[0].reverse();
///         Ok(())
///     }
/// }
///
/// let cpu = Cpu::new(Default::default())?;
/// let (meta, mut y) = (TensorMeta::new(DType::U8, [3])?, [0; 3]);
/// let (x, to) = (View::host(&[1, 2, 3], meta.clone())?, ViewMut::host(&mut y, meta)?);
/// cpu.call(ops::Custom::new(Arc::new(Reverse), vec![x], vec![to]), None)?;
/// assert_eq!(y, [3, 2, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait CustomOp: fmt::Debug + Send + Sync {
    /// Its name in errors and traces.
    fn name(&self) -> &'static str;

    /// Whether these tensors, in the order given to [`Custom::new`], fit together.
    ///
    /// # Errors
    /// [`DeviceError::Shape`], or [`DeviceError::Unsupported`] for a dtype.
    fn check(&self, reads: &[&TensorMeta], writes: &[&TensorMeta]) -> Result<(), DeviceError>;

    /// Floating-point operations, for estimating its time.
    fn flops(&self, reads: &[&TensorMeta], writes: &[&TensorMeta]) -> u64;

    /// Computes on the bytes of checked tensors. Written tensors hold their previous contents at first. It is
    /// called on a thread of the device's pool.
    ///
    /// # Errors
    /// Any error. On the simulated device, an error of a late operation counts as a loss of the device.
    fn cpu(&self, reads: &[&[u8]], writes: &mut [&mut [u8]]) -> Result<(), DeviceError>;
}

operation! {
    /// An operation of the user's own.
    pub struct Custom<'a> {
        /// What it computes.
        pub op: Arc<dyn CustomOp>,
        /// What it reads.
        pub reads: Vec<View<'a>>,
        /// What it writes or changes in place.
        pub writes: Vec<ViewMut<'a>>,
    }
}

impl<'a> Custom<'a> {
    /// An operation over these tensors.
    pub fn new(op: Arc<dyn CustomOp>, reads: Vec<View<'a>>, writes: Vec<ViewMut<'a>>) -> Custom<'a> {
        Custom { op, reads, writes }
    }

    fn metas(&self) -> (Vec<&TensorMeta>, Vec<&TensorMeta>) {
        (self.reads.iter().map(View::meta).collect(), self.writes.iter().map(ViewMut::meta).collect())
    }
}

impl Field for Arc<dyn CustomOp> {
    type At<'b> = Arc<dyn CustomOp>;

    fn at<'b>(&self, _: &mut dyn Places<'b>) -> Result<Self::At<'b>, DeviceError> {
        Ok(Arc::clone(self))
    }
}

impl Operation for Custom<'_> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn check(&self) -> Result<(), DeviceError> {
        let (reads, writes) = self.metas();
        self.op.check(&reads, &writes)
    }

    fn flops(&self) -> u64 {
        let (reads, writes) = self.metas();
        self.op.flops(&reads, &writes)
    }

    /// Written tensors count as read too, because they may be changed in place.
    fn bytes_read(&self) -> u64 {
        let (reads, writes) = self.metas();
        reads.into_iter().chain(writes).fold(0, |sum, meta| sum.saturating_add(meta.bytes()))
    }
}
