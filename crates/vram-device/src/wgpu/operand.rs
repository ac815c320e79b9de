//! Operands of kernels: tensors as parts of buffers, and their checks.

use vram_types::DType;

use super::launch::Launcher;
use super::memory::own;
use super::queue::Window;
use crate::{DeviceError, View, ViewMut};

/// Some bytes of a buffer, at any offset.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    pub(super) buffer: &'a ::wgpu::Buffer,
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) dtype: DType,
}

impl Launcher {
    /// What a kernel reads.
    pub(super) fn read<'a>(&self, kernel: &'static str, view: &View<'a>) -> Result<Operand<'a>, DeviceError> {
        let found =
            view.region().and_then(|(region, at)| Some((own(&self.context, region)?, region.offset() + at)));
        let (raw, at) = found.ok_or_else(|| DeviceError::foreign(kernel))?;
        Ok(Operand { buffer: &raw.buffer, at, bytes: view.meta().bytes(), dtype: view.dtype() })
    }

    /// An operand that a kernel writes, aligned to its element size.
    pub(super) fn write<'a>(
        &self,
        kernel: &'static str,
        view: &'a ViewMut<'_>,
    ) -> Result<Operand<'a>, DeviceError> {
        let (bytes, dtype) = (view.meta().bytes(), view.dtype());
        let found =
            view.region().and_then(|(region, at)| Some((own(&self.context, region)?, region.offset() + at)));
        let (raw, at) = found.ok_or_else(|| DeviceError::foreign(kernel))?;
        if !(at * 8).is_multiple_of(u64::from(dtype.bits())) {
            return Err(DeviceError::shape(kernel, format!("y begins in the middle of an element, at {at}")));
        }
        Ok(Operand { buffer: &raw.buffer, at, bytes, dtype })
    }

    /// How many rows of `row_bytes` bytes a kernel can bind at once, at least one.
    pub(super) fn rows_at_once(&self, kernel: &'static str, row_bytes: u64) -> Result<u64, DeviceError> {
        // An operand may begin anywhere after an aligned offset and end anywhere in a word.
        let room = self.context.max_binding.saturating_sub(self.context.alignment + 4);
        match room.checked_div(row_bytes) {
            Some(0) => Err(DeviceError::shape(
                kernel,
                format!("{row_bytes} bytes must be bound together, but the adapter binds at most {room}"),
            )),
            Some(rows) => Ok(rows),
            None => Ok(u64::MAX),
        }
    }

    /// The window on bytes `from..from + bytes` of an operand.
    pub(super) fn window<'a>(
        &self,
        kernel: &'static str,
        of: &Operand<'a>,
        from: u64,
        bytes: u64,
    ) -> Result<Window<'a>, DeviceError> {
        let begin = of.at + from;
        let at = begin / self.context.alignment * self.context.alignment;
        let end = (begin + bytes.max(4)).next_multiple_of(4).min(of.buffer.size());
        let window = Window { buffer: of.buffer, at, bytes: end - at, skip: (begin - at) as u32 };
        if window.bytes > self.context.max_binding || end < begin + bytes {
            let what = format!(
                "{bytes} bytes must be bound at once, but the adapter binds at most {}",
                self.context.max_binding
            );
            return Err(DeviceError::shape(kernel, what));
        }
        Ok(window)
    }

    /// The window on all of an operand.
    pub(super) fn whole<'a>(
        &self,
        kernel: &'static str,
        of: &Operand<'a>,
    ) -> Result<Window<'a>, DeviceError> {
        self.window(kernel, of, 0, of.bytes)
    }
}

impl Window<'_> {
    /// Where the operand begins in the window, in elements of `size` bytes.
    pub(super) fn skip_elements(&self, size: u64) -> u32 {
        self.skip / size as u32
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

/// Element size in bytes of a dtype that weights may have.
pub(super) fn stored(kernel: &'static str, dtype: DType) -> Result<u64, DeviceError> {
    match dtype {
        DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E4M3FNUZ | DType::F8_E5M2FNUZ | DType::F8_E8M0 => Ok(1),
        DType::BF16 | DType::F16 | DType::F32 => activation(kernel, dtype),
        _ => Err(DeviceError::dtype(kernel, dtype, "it takes floats of 8 to 32 bits")),
    }
}

/// A number of elements in the width that kernels use.
pub(super) fn count(kernel: &'static str, n: usize) -> Result<u32, DeviceError> {
    u32::try_from(n)
        .map_err(|_| DeviceError::shape(kernel, format!("{n} elements are more than it supports")))
}
