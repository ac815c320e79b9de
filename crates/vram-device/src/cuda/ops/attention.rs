//! [`Attention`].

use super::super::device::Cuda;
use super::super::launch::Arg;
use super::super::operand::count;
use super::super::program::{Key, Program};
use crate::DeviceError;
use crate::ops::Attention;

pub(in crate::cuda) static PROGRAM: Program = Program {
    name: "attention",
    source: concat!(include_str!("common.cu"), include_str!("attention.cu")),
    kernels: &["attention_64", "attention_128"],
    by_weight: false,
};

impl Cuda {
    pub(super) fn attention(&self, op: &Attention<'_>) -> Result<(), DeviceError> {
        const NAME: &str = "attention";
        let (queries, keys) = (op.q.shape().rows(), op.k.shape().rows());
        let [q, k, v] = [
            self.launcher.read(NAME, &op.q)?,
            self.launcher.read(NAME, &op.k)?,
            self.launcher.read(NAME, &op.v)?,
        ];
        let y = self.launcher.write(NAME, &op.y)?;
        if queries * op.q.shape().last() == 0 {
            return Ok(());
        }
        if keys == 0 {
            return Err(DeviceError::shape(NAME, "there are no keys to attend to"));
        }
        let dim = op.head_dim() as u64;
        let (name, columns) = if dim <= 64 { ("attention_64", 64) } else { ("attention_128", 128) };
        // No mask is a mask that begins after the last key.
        let first = op.causal.map_or(keys, |position| position.min(keys)) as u64;
        let blocks = [(queries as u64).div_ceil(64), op.heads as u64, dim.div_ceil(columns)];
        let args = [
            Arg::Pointer(q.pointer),
            Arg::Pointer(k.pointer),
            Arg::Pointer(v.pointer),
            Arg::Pointer(y.pointer),
            Arg::Int(count(NAME, queries)?),
            Arg::Int(count(NAME, keys)?),
            Arg::Int(count(NAME, op.heads)?),
            Arg::Int(count(NAME, op.heads / op.kv_heads)?),
            Arg::Int(count(NAME, dim as usize)?),
            Arg::Long(first),
            Arg::Float(op.scale),
        ];
        self.launcher.launch(Key::new(&PROGRAM, y.dtype), name, blocks, &args)
    }
}
