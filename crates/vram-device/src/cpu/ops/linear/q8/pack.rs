//! x in bytes.

use std::marker::PhantomData;

use vram_types::BlockType;

use super::{COLUMNS, Layout, layout};
use crate::cpu::error::{KernelError, check_len};
use crate::cpu::isa::{Body, Isa, dispatch};
use crate::cpu::num::{Act, Elem as _, act_bytes, with_act};
use crate::cpu::par::{self, Pool, for_each_block};

/// Columns of x that share a scale.
const SCALED: usize = 32;
/// Bytes of a [`Record`].
pub(super) const RECORD: usize = STARTS + 4 * COLUMNS / 16;
const LEASTS: usize = COLUMNS;
const SCALES: usize = LEASTS + 4 * COLUMNS / 16;
const STARTS: usize = SCALES + 4 * COLUMNS / SCALED;

/// [`COLUMNS`] columns of a row of x: quants `q` with `x = scale * q`; for each group of columns of the weights the sum of
/// the quants times the scale, which a least is multiplied with; scales; and what sums of products begin with, so that
/// the offset of the weights' bytes drops out. Past the end of a row all is zero.
pub(super) type Record = [u8; RECORD];

/// Four bytes of a record.
#[inline(always)]
fn word(record: &Record, at: usize) -> [u8; 4] {
    [record[at], record[at + 1], record[at + 2], record[at + 3]]
}

/// Four quants, of which the first is the lowest byte.
#[inline(always)]
pub(super) fn quad(record: &Record, quad: usize) -> i32 {
    i32::from_le_bytes(word(record, 4 * quad))
}

/// What the least of a group is multiplied with.
#[inline(always)]
pub(super) fn least(record: &Record, group: usize) -> f32 {
    f32::from_ne_bytes(word(record, LEASTS + 4 * group))
}

/// The scale of the columns from `SCALED * at` on.
#[inline(always)]
pub(super) fn scale(record: &Record, at: usize) -> f32 {
    f32::from_ne_bytes(word(record, SCALES + 4 * at))
}

/// What the sum of products of a group begins with.
#[inline(always)]
pub(super) fn start(record: &Record, group: usize) -> i32 {
    i32::from_ne_bytes(word(record, STARTS + 4 * group))
}

/// Bytes of scratch that [`pack`] fills for x [m, k]; saturates where they overflow.
pub(in crate::cpu::ops::linear) fn scratch_bytes(m: usize, k: usize) -> usize {
    m.saturating_mul(k.div_ceil(COLUMNS)).saturating_mul(RECORD)
}

/// Rounds x [m, k] to bytes, for weights in such blocks. The records of the first columns of all rows come first.
///
/// A scale is the largest magnitude of its columns by 127. Columns with an infinity or NaN among them become NaN.
///
/// # Errors
/// If `act` is not a compute dtype or a slice is too short for the shape.
pub(in crate::cpu::ops::linear) fn pack(
    isa: Isa,
    block: BlockType,
    (x, m, k, act): (&[u8], usize, usize, vram_types::DType),
    scratch: &mut [u8],
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    /// Records of a task.
    const TASK: usize = 16;
    check_len("x", x.len(), &[m, k, act_bytes("act", act)?])?;
    let needed = scratch_bytes(m, k);
    check_len("linear scratch", scratch.len(), &[needed])?;
    if m == 0 || k == 0 {
        return Ok(());
    }
    let pool = par::worth(pool, needed);
    let layout = layout(block);
    for_each_block(pool, &mut scratch[..needed], TASK * RECORD, |task, records| {
        for (i, record) in records.as_chunks_mut::<RECORD>().0.iter_mut().enumerate() {
            let (chunk, row) = ((task * TASK + i) / m, (task * TASK + i) % m);
            let k0 = chunk * COLUMNS;
            with_act!(act, A => {
                let x = &x[(row * k + k0) * A::BYTES..][..COLUMNS.min(k - k0) * A::BYTES];
                dispatch(isa, Pack::<A> { x, layout, record, act: PhantomData });
            });
        }
    });
    Ok(())
}

struct Pack<'a, A> {
    x: &'a [u8],
    layout: Layout,
    record: &'a mut Record,
    act: PhantomData<A>,
}

impl<A: Act> Body for Pack<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Pack { x, layout, record, .. } = self;
        *record = [0; RECORD];
        let groups = SCALED / layout.group;
        for (at, x) in A::slice(x).chunks(SCALED).enumerate() {
            let mut values = [0f32; SCALED];
            for (value, &x) in values.iter_mut().zip(x) {
                *value = A::get(x);
            }
            let (quants, scale) = quantise(&values);
            for (out, quant) in record[SCALED * at..][..SCALED].iter_mut().zip(quants) {
                *out = quant as u8;
            }
            let mut put = |at: usize, bytes: [u8; 4]| record[at..][..4].copy_from_slice(&bytes);
            put(SCALES + 4 * at, scale.to_ne_bytes());
            for (g, quants) in quants.chunks_exact(layout.group).enumerate() {
                let (g, sum) = (at * groups + g, quants.iter().sum::<i32>());
                put(LEASTS + 4 * g, (scale * sum as f32).to_ne_bytes());
                put(STARTS + 4 * g, (-layout.offset * sum).to_ne_bytes());
            }
        }
    }
}

/// Numbers from -127 to 127 and what they are to be multiplied with.
#[inline(always)]
fn quantise(values: &[f32; SCALED]) -> ([i32; SCALED], f32) {
    /// Adding it leaves a whole number, rounded to nearest even, in the low bits of the mantissa.
    const WHOLE: f32 = 12_582_912.0;
    // Bits of numbers without a sign are in the order of the numbers, and NaNs come last.
    let most = values.iter().map(|v| v.to_bits() & 0x7fff_ffff).fold(0, u32::max);
    let most = f32::from_bits(most);
    // What is too small to have an inverse counts as nothing.
    let (scale, inverse) = match most {
        _ if !most.is_finite() => (f32::NAN, 0.0),
        _ if most < 1e-35 => (0.0, 0.0),
        _ => (most / 127.0, 127.0 / most),
    };
    let quants =
        values.map(|v| ((v * inverse + WHOLE).to_bits() as i32).wrapping_sub(WHOLE.to_bits() as i32));
    // With a scale of NaN quants mean nothing, and must not overflow sums.
    (quants.map(|q| q.clamp(-127, 127)), scale)
}
