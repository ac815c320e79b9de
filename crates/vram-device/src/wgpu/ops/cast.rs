//! [`Cast`].

use super::super::device::Wgpu;
use super::super::pipeline::Program;
use super::elements::{Input, elements, program};
use crate::DeviceError;
use crate::ops::Cast;

static PROGRAM: Program = program!("cast", "read0(p.x0, i)");

impl Wgpu {
    pub(super) fn cast(&self, op: &Cast<'_>) -> Result<(), DeviceError> {
        elements(&self.launcher, ("cast", &PROGRAM), &[Input::Each(&op.x)], 1.0, &op.y)
    }
}
