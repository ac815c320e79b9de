//! Operands of kernels: tensors as pointers, and their checks.

use vram_types::DType;

use super::launch::{Arg, Launcher};
use super::memory::own;
use super::program::number;
use crate::{DeviceError, Region, View, ViewMut};

/// A tensor on the card, at any address.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) pointer: u64,
    pub(super) dtype: DType,
    /// The number that kernels use for the dtype.
    pub(super) number: u32,
}

impl Launcher {
    /// A weight, a bias, a table: floats of any format at any address.
    pub(super) fn stored(&self, kernel: &'static str, view: &View<'_>) -> Result<Operand, DeviceError> {
        let dtype = view.dtype();
        let number = number(dtype).ok_or_else(|| not_a_float(kernel, dtype))?;
        Ok(Operand { pointer: self.place(kernel, view.region())?, dtype, number })
    }

    /// The same for an optional tensor: the pointer, 0 if absent, and the number of the dtype.
    pub(super) fn optional(
        &self,
        kernel: &'static str,
        view: Option<&View<'_>>,
    ) -> Result<(Arg<'static>, Arg<'static>), DeviceError> {
        let operand = view.map(|view| self.stored(kernel, view)).transpose()?;
        let (pointer, number) = operand.map_or((0, 0), |operand| (operand.pointer, operand.number));
        Ok((Arg::Pointer(pointer), Arg::Int(number)))
    }

    /// Activations that a kernel reads, aligned to their element size.
    pub(super) fn read(&self, kernel: &'static str, view: &View<'_>) -> Result<Operand, DeviceError> {
        let size = activation(kernel, view.dtype())?;
        let operand = self.stored(kernel, view)?;
        aligned(kernel, "x", operand.pointer, size).map(|()| operand)
    }

    /// Activations that a kernel writes.
    pub(super) fn write(&self, kernel: &'static str, view: &ViewMut<'_>) -> Result<Operand, DeviceError> {
        let dtype = view.dtype();
        let size = activation(kernel, dtype)?;
        let number = number(dtype).ok_or_else(|| not_a_float(kernel, dtype))?;
        let pointer = self.place(kernel, view.region())?;
        aligned(kernel, "y", pointer, size).map(|()| Operand { pointer, dtype, number })
    }

    /// Device address of a tensor of any dtype that a kernel reads, without alignment.
    pub(super) fn bytes(&self, kernel: &'static str, view: &View<'_>) -> Result<u64, DeviceError> {
        self.place(kernel, view.region())
    }

    /// Device address of a tensor of any dtype that a kernel writes in elements of `size` bytes.
    pub(super) fn bytes_mut(
        &self,
        kernel: &'static str,
        view: &ViewMut<'_>,
        size: u64,
    ) -> Result<u64, DeviceError> {
        let pointer = self.place(kernel, view.region())?;
        aligned(kernel, "y", pointer, size).map(|()| pointer)
    }

    /// Device address of a tensor.
    fn place(&self, kernel: &'static str, place: Option<(&Region, u64)>) -> Result<u64, DeviceError> {
        let found = place.and_then(|(region, at)| Some(own(&self.context, region)? + at));
        found.ok_or_else(|| DeviceError::foreign(kernel))
    }
}

/// Element size in bytes of a dtype that activations may have.
pub(super) fn activation(kernel: &'static str, dtype: DType) -> Result<u64, DeviceError> {
    match dtype {
        DType::F32 => Ok(4),
        DType::BF16 | DType::F16 => Ok(2),
        _ => Err(DeviceError::dtype(kernel, dtype, "activations are f32, bf16 or f16")),
    }
}

fn not_a_float(kernel: &'static str, dtype: DType) -> DeviceError {
    DeviceError::dtype(kernel, dtype, "it takes floats of 8 to 32 bits")
}

/// A number of rows or columns in the width that kernels use.
pub(super) fn count(kernel: &'static str, n: usize) -> Result<u32, DeviceError> {
    u32::try_from(n)
        .map_err(|_| DeviceError::shape(kernel, format!("{n} rows or columns are more than it supports")))
}

fn aligned(kernel: &'static str, what: &str, at: u64, size: u64) -> Result<(), DeviceError> {
    match at.is_multiple_of(size) {
        true => Ok(()),
        false => Err(DeviceError::shape(kernel, format!("{what} begins in the middle of an element"))),
    }
}
