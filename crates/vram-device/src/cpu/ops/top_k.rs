//! [`TopK`]: the largest elements of each row, by sorted insertion.

use std::cmp::Ordering;

use super::operand::{act, read, write};
use crate::DeviceError;
use crate::cpu::Cpu;
use crate::cpu::num::{Act, Elem, with_act};
use crate::cpu::par::{self, BLOCK};
use crate::ops::{Operation, TopK};

impl Cpu {
    pub(super) fn top_k(&self, op: TopK<'_>) -> Result<(), DeviceError> {
        let (name, k) = (op.name(), op.k());
        let TopK { x, mut indices } = op;
        let (dtype, width) = (x.dtype(), x.shape().last());
        let row = width * act(name, dtype)?;
        let (x, indices) = (read(name, &x)?, write(name, &mut indices)?);
        let rows = (BLOCK / row).max(1);
        let pool = par::worth(Some(&self.pool), x.len());
        with_act!(dtype, A => par::for_each_block(pool, indices, rows * k * 4, |i, indices| {
            let x = x[i * rows * row..].chunks_exact(row);
            for (x, indices) in x.zip(indices.chunks_exact_mut(k * 4)) {
                largest::<A>(A::slice(x), indices.as_chunks_mut().0);
            }
        }));
        Ok(())
    }
}

/// Writes the indices of the largest elements of a row, which has at least `best.len()` elements.
fn largest<A: Act>(row: &[A::Raw], best: &mut [[u8; 4]]) {
    let value = |i: [u8; 4]| A::get(row[u32::from_le_bytes(i) as usize]);
    let mut found = 0;
    for (i, &x) in (0u32..).zip(row) {
        let x = A::get(x);
        if found == best.len() {
            if best.last().is_none_or(|&last| order(x, value(last)) != Ordering::Greater) {
                continue;
            }
            found -= 1;
        }
        // After equal elements, which came first.
        let at = best[..found].partition_point(|&j| order(value(j), x) != Ordering::Less);
        best.copy_within(at..found, at + 1);
        best[at] = i.to_le_bytes();
        found += 1;
    }
}

/// Orders numbers by value, -0 equal to 0, and every NaN above them.
fn order(a: f32, b: f32) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
