//! [`Upsample`], as a strided copy.

use super::operand::act;
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::ops::{Operation, Upsample};

impl Cpu {
    pub(super) fn upsample(&self, op: Upsample<'_>) -> Result<(), DeviceError> {
        let (name, axes) = (op.name(), op.axes());
        let Upsample { x, mut y, .. } = op;
        act(name, x.dtype())?;
        self.copy_by_strides(name, (&x, 0), &axes, (&mut y, 0))
    }
}
