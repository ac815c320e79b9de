//! [`Cast`].

use vram_types::cast::{cast, cast_serial};
use vram_types::{BlockType, DType, Encoding, TypeError};

use super::operand::{read, write};
use super::scaled::{Scaled, scaled};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::ops::{Cast, Operation};

/// Elements that are decoded at a time: whole blocks of every type.
const AT_ONCE: usize = 2048;

impl Cpu {
    pub(super) fn cast(&self, op: Cast<'_>) -> Result<(), DeviceError> {
        let name = op.name();
        let Cast { x, mut y } = op;
        let to = y.dtype();
        let (src, dst) = (read(name, &x)?, write(name, &mut y)?);
        match x.encoding() {
            Encoding::Plain(from) => Ok(self.pool.install(|| cast(src, from, dst, to))?),
            Encoding::Blocks(block) => Ok(decode(block, src, dst, to)?),
            Encoding::Scaled(_) => Ok(scale(&scaled(name, &x)?, dst, to)?),
            other => {
                let why = format!("x cannot be {other}");
                Err(DeviceError::Unsupported { op: name, dtype: None, why })
            }
        }
    }
}

/// Decodes a few blocks at a time, and rounds their values.
fn decode(block: BlockType, blocks: &[u8], dst: &mut [u8], to: DType) -> Result<(), TypeError> {
    let stored = AT_ONCE / block.block_elements() as usize * block.block_bytes() as usize;
    let mut values = [0; AT_ONCE * 4];
    let mut done = 0;
    for blocks in blocks.chunks(stored) {
        let elements = blocks.len() / block.block_bytes() as usize * block.block_elements() as usize;
        let values = &mut values[..elements * 4];
        block.decode(blocks, values)?;
        // Elements can be smaller than a byte: `elements` is a multiple of 32.
        let bytes = elements * to.bits() as usize / 8;
        cast_serial(values, DType::F32, &mut dst[done..done + bytes], to)?;
        done += bytes;
    }
    Ok(())
}

/// Multiplies numbers by their scales, a few at a time, and rounds the products.
fn scale(x: &Scaled<'_>, dst: &mut [u8], to: DType) -> Result<(), TypeError> {
    let (mut values, mut bytes) = ([0f32; AT_ONCE], [0; AT_ONCE * 4]);
    for first in (0..x.elements()).step_by(AT_ONCE) {
        let count = AT_ONCE.min(x.elements() - first);
        x.values(first, &mut values[..count]);
        for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        // `AT_ONCE` elements are whole bytes of every dtype.
        let (from, end) = (first * to.bits() as usize / 8, (first + count) * to.bits() as usize / 8);
        cast_serial(&bytes[..count * 4], DType::F32, &mut dst[from..end], to)?;
    }
    Ok(())
}
