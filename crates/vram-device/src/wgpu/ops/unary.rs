//! [`Unary`].

use super::super::device::Wgpu;
use super::activation::activation;
use super::elements::elements;
use crate::DeviceError;
use crate::ops::Unary;

impl Wgpu {
    pub(super) fn unary(&self, op: &Unary<'_>) -> Result<(), DeviceError> {
        let program = activation!(op.kind, "unary", "old", "");
        elements(&self.launcher, ("unary", program), &[], 1.0, &op.x)
    }
}
