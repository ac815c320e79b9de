//! [`Modulate`].

use super::super::device::Wgpu;
use super::super::pipeline::Program;
use super::elements::{Input, elements, program};
use crate::DeviceError;
use crate::ops::Modulate;

static PROGRAM: Program =
    program!("modulate", "fma(read0(p.x0, i), 1.0 + read1(p.x1, i % p.width), read2(p.x2, i % p.width))");

impl Wgpu {
    pub(super) fn modulate(&self, op: &Modulate<'_>) -> Result<(), DeviceError> {
        let inputs = [Input::Each(&op.x), Input::Row(&op.scale), Input::Row(&op.shift)];
        elements(&self.launcher, ("modulate", &PROGRAM), &inputs, 1.0, &op.y)
    }
}
