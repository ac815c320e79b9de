//! Arithmetic on device memory.

use crate::ops::{Checked, Op, Operation as _};
use crate::{Device, DeviceError, ViewMut};

/// Kernels of a backend. Activations are row-major in the *compute dtype* (f32, bf16 or f16); weights come in their
/// *storage dtype* at any alignment and are rounded to the compute dtype as they are read, never as a whole matrix.
/// Where a backend takes weights that are [encoded](crate::View::encoded), it decodes them as it reads them.
/// Sums run in f32 and are rounded once.
///
/// Every output element depends only on its own row of the input, its own row of the weight, the inner extent, the
/// dtypes and the instruction-set path: not on how many rows there are, on how the weight was split, on where it
/// lies or on the number of threads. That is what lets a budget change without changing the answer.
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
    /// Bytes of scratch that an operation needs here. It follows from dtypes, shapes and parameters alone; for a linear
    /// layer not from the number of the weight's rows, so that all tiles of a weight can use the same scratch.
    fn scratch(&self, op: &Op<'_>) -> u64;

    /// Issues an operation. The scratch has at least the [bytes that it needs](Kernels::scratch) if that is more than
    /// none. It belongs to the operation until that is done; what is in it afterwards is up to the backend.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] for what the backend has no kernel for, [`DeviceError::Shape`] for memory of
    /// another device, for absent memory and for what exceeds a limit of the device, [`DeviceError::Lost`].
    fn run(&self, op: Checked<'_>, scratch: Option<&mut ViewMut<'_>>) -> Result<(), DeviceError>;

    /// Whether there is a kernel for an operation on operands of these encodings. It follows from encodings, dtypes and
    /// shapes alone, so that it can be asked of an operation without bytes: whoever keeps weights keeps them encoded
    /// where the device takes them so, and decoded where it does not. As it is, nothing encoded is taken.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] with the encoding that is not taken.
    fn takes(&self, op: &Op<'_>) -> Result<(), DeviceError> {
        match op.decoded().filter(|view| view.is_encoded()) {
            Some(view) => Err(op.unsupported(format!("it does not decode {}", view.encoding()))),
            None => Ok(()),
        }
    }

    /// Runs a whole forward where issuing kernels is cheapest: the CPU's own pool, a thread that a context is current
    /// on. Kernels may be called from anywhere; this saves a change of threads for each.
    fn scope(&self, forward: &mut (dyn FnMut() + Send)) {
        forward();
    }
}

/// What every device with kernels can do besides.
pub trait KernelsExt: Kernels {
    /// Checks an operation and its scratch, and issues it.
    ///
    /// # Errors
    /// As [`Operation::check`](crate::ops::Operation::check), [`Kernels::takes`] and [`Kernels::run`];
    /// [`DeviceError::Shape`] if there is less scratch than the operation needs here.
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
