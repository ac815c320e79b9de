//! [`Attention`]: scores by a product, their softmax in place, and a second product with the values.

use vram_types::DType;

use super::super::device::Wgpu;
use super::super::launch::{flat, pieces};
use super::super::operand::{Operand, activation};
use super::super::pipeline::{Key, Program, Writes};
use super::linear::{Product, product};
use crate::ops::Attention;
use crate::{DeviceError, ViewMut};

static SOFTMAX: Program = Program {
    name: "softmax",
    source: concat!(include_str!("../shaders/total.wgsl"), include_str!("attention.wgsl")),
    writes: Writes::Scattered,
};

/// Bytes of scores that are computed at a time, if at least one query fits.
const SCORES: u64 = 4 << 20;

/// Most queries at a time; more do not help.
const QUERIES: u64 = 64;

impl Wgpu {
    /// How many queries are computed at a time. It depends only on the number of keys and heads and on the
    /// adapter, because it sizes the scratch.
    fn queries_at_once(&self, keys: u64, heads: u64) -> u64 {
        let one = (keys * heads * 4).max(1);
        let room = SCORES.min(self.context.max_binding.saturating_sub(self.context.alignment + 4));
        (room / one).clamp(1, QUERIES)
    }

    pub(super) fn attention_scratch(&self, op: &Attention<'_>) -> u64 {
        let (keys, heads) = (op.k.shape().rows() as u64, op.heads as u64);
        self.queries_at_once(keys, heads) * keys * heads * 4
    }

    pub(super) fn attention(
        &self,
        op: &Attention<'_>,
        scratch: Option<&ViewMut<'_>>,
    ) -> Result<(), DeviceError> {
        const NAME: &str = "attention";
        let (queries, keys) = (op.q.shape().rows() as u64, op.k.shape().rows() as u64);
        let (width, heads) = (op.q.shape().last() as u64, op.heads as u64);
        let dim = op.head_dim() as u64;
        let (sharing, kv_width) = (heads / op.kv_heads as u64, op.k.shape().last() as u64);
        let [q, k, v] = [
            self.launcher.read(NAME, &op.q)?,
            self.launcher.read(NAME, &op.k)?,
            self.launcher.read(NAME, &op.v)?,
        ];
        let y = self.launcher.write(NAME, &op.y)?;
        let act = y.dtype;
        let size = activation(NAME, act)?;
        if queries * width == 0 {
            return Ok(());
        }
        if keys == 0 {
            return Err(DeviceError::shape(NAME, "there are no keys to attend to"));
        }
        // Checked here as well: windows of it are not limited to the size of a view.
        let needed = self.attention_scratch(op);
        let Some(scratch) = scratch.filter(|view| view.meta().bytes() >= needed) else {
            return Err(DeviceError::shape(NAME, format!("less scratch than {needed} bytes")));
        };
        let scores = Operand { dtype: DType::F32, ..self.launcher.write(NAME, scratch)? };
        if !scores.at.is_multiple_of(4) {
            return Err(DeviceError::shape(NAME, "the scratch does not begin at a multiple of 4 bytes"));
        }
        let (k, v) = (self.launcher.whole(NAME, &k)?, self.launcher.whole(NAME, &v)?);
        let at_once = self.queries_at_once(keys, heads).min(self.launcher.rows_at_once(NAME, width * size)?);
        // No mask is a mask that begins after the last key.
        let position = op.causal.map_or(keys, |position| (position as u64).min(keys));
        for (first, rows) in pieces(queries, at_once) {
            // The keys that at least one query of this piece sees.
            let seen = keys.min(position + first + rows);
            let (from, bytes) = (first * width * size, rows * width * size);
            let q = self.launcher.window(NAME, &q, from, bytes)?;
            let y = self.launcher.window(NAME, &y, from, bytes)?;
            let s = self.launcher.window(NAME, &scores, 0, rows * seen * heads * 4)?;
            let to_keys = Product {
                a: (q, act),
                b: (k, act),
                bias: None,
                y: (s, DType::F32),
                act: DType::F32,
                extents: [rows, seen, dim],
                batches: heads,
                a_strides: [width, dim],
                b_strides: [kv_width, 1, dim],
                b_sharing: sharing,
                y_strides: [seen, rows * seen],
                y_at: 0,
                scale: op.scale,
            };
            product(&self.launcher, NAME, &to_keys)?;
            let softmax = Key::new(&SOFTMAX, &[], DType::F32);
            let limit = (position + first + 1).min(keys) as u32;
            let parameters = [(rows * heads) as u32, seen as u32, s.skip_elements(4), rows as u32, limit];
            self.launcher.run(softmax, &[s], &parameters, flat(rows * heads))?;
            let of_values = Product {
                a: (s, DType::F32),
                b: (v, act),
                y: (y, act),
                extents: [rows, dim, seen],
                a_strides: [seen, rows * seen],
                b_strides: [1, kv_width, dim],
                y_strides: [width, dim],
                scale: 1.0,
                ..to_keys
            };
            product(&self.launcher, NAME, &of_values)?;
        }
        Ok(())
    }
}
