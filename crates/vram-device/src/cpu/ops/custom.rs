//! [`Custom`]: user-defined operations.

use super::operand::{read, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::ops::{Custom, Operation};

impl Cpu {
    pub(super) fn custom(&self, op: Custom<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let Custom { op, reads, mut writes } = op;
        let reads: Vec<&[u8]> = reads.iter().map(|view| read(name, view)).collect::<Result<_, _>>()?;
        let mut writes: Vec<&mut [u8]> =
            writes.iter_mut().map(|view| write(name, view)).collect::<Result<_, _>>()?;
        self.pool.install(|| op.cpu(&reads, &mut writes))
    }
}
