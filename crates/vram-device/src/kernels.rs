//! Arithmetic on device memory.

use crate::ops::{Checked, Op, Operation as _};
use crate::{Device, DeviceError, ViewMut};

/// Kernels of a backend. Activations are row-major in the *compute dtype* (f32, bf16 or f16). Weights are in
/// their *storage dtype* at any alignment, and are rounded to the compute dtype as they are read, never as a
/// whole matrix. A backend that supports [encoded](crate::View::encoded) weights decodes them as it reads
/// them. Sums are computed in f32 and rounded once.
///
/// Every output element depends only on its own row of the input, its own row of the weight, the inner
/// extent, the dtypes and the instruction-set path: not on how many rows there are, how the weight was split,
/// where it is in memory, or the number of threads. That is why a budget can change without changing the
/// answer.
///
/// Callers use [`KernelsExt::call`], which checks an operation before it runs it.
///
/// ```
/// use vram_device::{Budget, Device, KernelsExt, Lifetime, Tier, View, ViewMut, cpu::Cpu, ops};
/// use vram_types::{DType, TensorMeta};
///
/// let cpu = Cpu::new(Default::default())?;
/// let budget = Budget::new(Tier::Device, 1 << 20);
/// let memory = |value: f32| -> Result<_, Box<dyn std::error::Error>> {
///     let mut region = cpu.allocate(budget.reserve(Lifetime::Pass, 16)?)?.into_region();
///     let bytes = region.host_mut().ok_or("the CPU's memory is the host's")?;
///     bytes.as_chunks_mut().0.fill(value.to_le_bytes());
///     Ok(region)
/// };
/// let (x, mut y) = (memory(1.5)?, memory(2.0)?);
/// let row = TensorMeta::new(DType::F32, [1, 4])?;
/// let (x, y_mut) = (View::new(&x, 0, row.clone())?, ViewMut::new(&mut y, 0, row)?);
/// cpu.call(ops::Binary::new(ops::BinaryKind::Add, x, y_mut), None)?;
/// assert_eq!(y.host().ok_or("as above")?[..4], 3.5f32.to_le_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Kernels: Device {
    /// Bytes of scratch that an operation needs on this device. It depends only on dtypes, shapes and
    /// parameters. For a linear layer it does not depend on the number of the weight's rows, so that all
    /// tiles of a weight can use the same scratch.
    fn scratch(&self, op: &Op<'_>) -> u64;

    /// Issues an operation. The scratch has at least the [bytes that it needs](Kernels::scratch), and may be
    /// `None` if that is 0. It belongs to the operation until that is done; its contents afterwards are up to
    /// the backend.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] if the backend has no kernel for it; [`DeviceError::Shape`] for memory of
    /// another device, for absent memory, and beyond a limit of the device; [`DeviceError::Lost`].
    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError>;

    /// Whether there is a kernel for an operation on operands of these encodings. It depends only on
    /// encodings, dtypes and shapes, so that operations without bytes can be asked about: weights are kept
    /// encoded if the device supports that, and decoded if not. The default supports no encodings.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] with the unsupported encoding.
    fn takes(&self, op: &Op<'_>) -> Result<(), DeviceError> {
        match op.decoded().filter(|view| view.is_encoded()) {
            Some(view) => Err(op.unsupported(format!("it does not decode {}", view.encoding()))),
            None => Ok(()),
        }
    }

    /// Runs a whole forward where issuing kernels is cheapest: in the CPU's own pool, or on a thread with a
    /// current context. Kernels may be called from anywhere; this saves a thread switch for each.
    fn scope(&self, forward: &mut (dyn FnMut() + Send)) {
        forward();
    }
}

/// Methods that every device with kernels has in addition.
pub trait KernelsExt: Kernels {
    /// Checks an operation and its scratch, and issues it.
    ///
    /// # Errors
    /// See [`Operation::check`](crate::ops::Operation::check), [`Kernels::takes`] and [`Kernels::run`];
    /// [`DeviceError::Shape`] if there is less scratch than the operation needs on this device.
    fn call<'a>(&self, op: impl Into<Op<'a>>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError> {
        let op = op.into().checked()?;
        self.takes(op.op())?;
        let available = scratch.as_ref().map_or(0, |view| view.meta().bytes());
        enough_scratch(op.op(), self.scratch(op.op()), available)?;
        self.run(op, scratch)
    }
}

impl<K: Kernels + ?Sized> KernelsExt for K {}

fn enough_scratch(op: &Op<'_>, needed: u64, available: u64) -> Result<(), DeviceError> {
    if available < needed {
        let what = format!("{available} bytes of scratch where {needed} are needed");
        return Err(DeviceError::shape(op.name(), what));
    }
    Ok(())
}
