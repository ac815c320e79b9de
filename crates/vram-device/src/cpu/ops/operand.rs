//! Tensors as byte slices, and kernel errors as device errors.

use vram_types::DType;

use crate::cpu::error::KernelError;
use crate::cpu::num::act_bytes;
use crate::{DeviceError, View, ViewMut};

pub(super) fn read<'a>(op: &'static str, view: &View<'a>) -> Result<&'a [u8], DeviceError> {
    view.bytes().ok_or_else(|| DeviceError::foreign(op))
}

pub(super) fn stored<'a>(op: &'static str, view: &View<'a>) -> Result<(&'a [u8], DType), DeviceError> {
    Ok((read(op, view)?, view.dtype()))
}

pub(super) fn write<'a>(op: &'static str, view: &'a mut ViewMut<'_>) -> Result<&'a mut [u8], DeviceError> {
    view.bytes().ok_or_else(|| DeviceError::foreign(op))
}

/// Bytes of an element of a compute dtype.
pub(super) fn act(op: &'static str, dtype: DType) -> Result<usize, DeviceError> {
    act_bytes("act", dtype).map_err(|e| refused(op, e))
}

/// The bytes of the scratch; an empty slice if there is none.
pub(super) fn room<'a>(
    op: &'static str,
    scratch: Option<&'a mut ViewMut<'_>>,
) -> Result<&'a mut [u8], DeviceError> {
    scratch.map_or(Ok(&mut []), |view| write(op, view))
}

pub(super) fn refused(op: &'static str, e: KernelError) -> DeviceError {
    match e {
        KernelError::DType { what, dtype } => DeviceError::dtype(op, dtype, format!("for {what}")),
        KernelError::Index { what, index, len } => {
            DeviceError::OutOfRange { what, offset: index, bytes: 1, available: len }
        }
        KernelError::Encoding { what, encoding } => {
            let why = format!("{what} cannot be {encoding}");
            DeviceError::Unsupported { op, dtype: None, why }
        }
        other => DeviceError::shape(op, other.to_string()),
    }
}
