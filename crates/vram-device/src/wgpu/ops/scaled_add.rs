//! [`ScaledAdd`].

use super::super::device::Wgpu;
use super::super::pipeline::Program;
use super::elements::{Input, elements, program};
use crate::DeviceError;
use crate::ops::ScaledAdd;

static GATED: Program =
    program!("scaled_add", "fma(p.factor * read1(p.x1, i % p.width), read0(p.x0, i), old)");
static BY_A_NUMBER: Program = program!("scaled_add by a number", "fma(p.factor, read0(p.x0, i), old)");

impl Wgpu {
    pub(super) fn scaled_add(&self, op: &ScaledAdd<'_>) -> Result<(), DeviceError> {
        let x = Input::Each(&op.x);
        match &op.gate {
            Some(gate) => {
                let inputs = [x, Input::Row(gate)];
                elements(&self.launcher, ("scaled_add", &GATED), &inputs, op.factor, &op.y)
            }
            None => elements(&self.launcher, ("scaled_add", &BY_A_NUMBER), &[x], op.factor, &op.y),
        }
    }
}
