//! [`Binary`].

use super::super::device::Wgpu;
use super::super::pipeline::Program;
use super::elements::{Input, elements, program};
use crate::DeviceError;
use crate::ops::{Binary, BinaryKind, Broadcast};

static ADD: Program = program!("add", "old + read0(p.x0, i)");
static ADD_ROW: Program = program!("add row", "old + read0(p.x0, i % p.width)");
static ADD_COLUMN: Program = program!("add column", "old + read0(p.x0, i / p.width)");
static MUL: Program = program!("mul", "old * read0(p.x0, i)");
static MUL_ROW: Program = program!("mul row", "old * read0(p.x0, i % p.width)");
static MUL_COLUMN: Program = program!("mul column", "old * read0(p.x0, i / p.width)");

impl Wgpu {
    pub(super) fn binary(&self, op: &Binary<'_>) -> Result<(), DeviceError> {
        let broadcast = op.broadcast()?;
        let program = match (op.kind, broadcast) {
            (BinaryKind::Add, Broadcast::Equal) => &ADD,
            (BinaryKind::Add, Broadcast::Row) => &ADD_ROW,
            (BinaryKind::Add, Broadcast::Column) => &ADD_COLUMN,
            (BinaryKind::Mul, Broadcast::Equal) => &MUL,
            (BinaryKind::Mul, Broadcast::Row) => &MUL_ROW,
            (BinaryKind::Mul, Broadcast::Column) => &MUL_COLUMN,
        };
        let x = match broadcast {
            Broadcast::Equal => Input::Each(&op.x),
            Broadcast::Row => Input::Row(&op.x),
            Broadcast::Column => Input::Column(&op.x),
        };
        elements(&self.launcher, ("binary", program), &[x], 1.0, &op.y)
    }
}
