//! [`Upsample`], as a strided copy.

use super::super::device::Wgpu;
use super::super::operand::activation;
use crate::DeviceError;
use crate::ops::Upsample;

impl Wgpu {
    pub(super) fn upsample(&self, op: &Upsample<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "upsample";
        activation(NAME, op.x.dtype())?;
        self.copy_by_strides(NAME, (&op.x, 0), &op.axes(), (&op.y, 0))
    }
}
