//! [`Gated`].

use super::super::device::Wgpu;
use super::activation::activation;
use super::elements::{Input, elements};
use crate::DeviceError;
use crate::ops::Gated;

impl Wgpu {
    pub(super) fn gated(&self, op: &Gated<'_>) -> Result<(), DeviceError> {
        let program = activation!(op.kind, "gated", "read0(p.x0, i)", " * old");
        elements(&self.launcher, ("gated", program), &[Input::Each(&op.gate)], 1.0, &op.y)
    }
}
