//! What kernels see: tensors as pointers, and their checks.

use vram_types::DType;

use super::context::Context;
use super::program::number;
use crate::{DeviceError, View, ViewMut, checks};

/// A tensor on the card, which may begin anywhere.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) pointer: u64,
    pub(super) dtype: DType,
    /// The number by which kernels know the dtype.
    pub(super) number: u32,
}

impl Context {
    /// A weight, a bias, a table: floats of any format at any address.
    pub(super) fn stored(&self, kernel: &'static str, view: &View<'_>) -> Result<Operand, DeviceError> {
        let dtype = view.dtype();
        let number = number(dtype).ok_or(DeviceError::DType { kernel, dtype })?;
        Ok(Operand { pointer: self.pointer(kernel, view)?, dtype, number })
    }

    /// Activations that a kernel reads, whose elements lie at multiples of their size.
    pub(super) fn read(&self, kernel: &'static str, view: &View<'_>) -> Result<Operand, DeviceError> {
        let size = activation(kernel, view.dtype())?;
        let operand = self.stored(kernel, view)?;
        aligned(kernel, "x", operand.pointer, size).map(|()| operand)
    }

    /// Activations that a kernel writes.
    pub(super) fn write(&self, kernel: &'static str, view: &mut ViewMut<'_>) -> Result<Operand, DeviceError> {
        let dtype = view.dtype();
        let size = activation(kernel, dtype)?;
        let number = number(dtype).ok_or(DeviceError::DType { kernel, dtype })?;
        let pointer = self.pointer_mut(kernel, view)?;
        aligned(kernel, "y", pointer, size).map(|()| Operand { pointer, dtype, number })
    }

    /// Where a tensor of any dtype lies.
    pub(super) fn pointer(&self, kernel: &'static str, view: &View<'_>) -> Result<u64, DeviceError> {
        let found = view.region().and_then(|(region, at)| Some(self.own(region)? + at));
        found.ok_or_else(|| foreign(kernel))
    }

    pub(super) fn pointer_mut(
        &self,
        kernel: &'static str,
        view: &mut ViewMut<'_>,
    ) -> Result<u64, DeviceError> {
        let (region, at) = view.region();
        Ok(self.own(region).ok_or_else(|| foreign(kernel))? + at)
    }
}

/// Bytes of an element that activations may have.
pub(super) fn activation(kernel: &'static str, dtype: DType) -> Result<u64, DeviceError> {
    match dtype {
        DType::F32 => Ok(4),
        DType::BF16 | DType::F16 => Ok(2),
        _ => Err(DeviceError::DType { kernel, dtype }),
    }
}

/// A weight or a bias of so many elements.
pub(super) fn vector(
    kernel: &'static str,
    what: &str,
    view: &View<'_>,
    width: usize,
) -> Result<(), DeviceError> {
    checks::vector(kernel, what, view, width)
}

/// A number as kernels count rows and columns.
pub(super) fn count(kernel: &'static str, n: usize) -> Result<u32, DeviceError> {
    u32::try_from(n)
        .map_err(|_| DeviceError::shape(kernel, format!("{n} rows or columns are more than it counts")))
}

fn aligned(kernel: &'static str, what: &str, at: u64, size: u64) -> Result<(), DeviceError> {
    match at.is_multiple_of(size) {
        true => Ok(()),
        false => Err(DeviceError::shape(kernel, format!("{what} begins in the middle of an element"))),
    }
}

fn foreign(kernel: &'static str) -> DeviceError {
    DeviceError::shape(kernel, "the memory is of another device")
}
