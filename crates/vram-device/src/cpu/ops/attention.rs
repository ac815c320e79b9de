//! [`Attention`]: softmax attention over heads that are side by side in a row.

use std::marker::PhantomData;

use vram_types::DType;

use super::linear::micro::{self, Job, Micro};
use super::linear::pack::KC;
use super::operand::{read, refused, room, write};
use crate::cpu::Cpu;
use crate::cpu::error::{KernelError, check_len};
use crate::cpu::isa::{Body, Isa, IsaKind, dispatch};
use crate::cpu::math::exp;
use crate::cpu::num::{Act, act_bytes, with_act};
use crate::cpu::par::{self, Pool, Shared};
use crate::ops::{Attention, Operation};
use crate::{DeviceError, ViewMut};

/// Queries that are computed side by side, one to a lane.
const LANES: usize = 16;
/// Keys that are widened at a time, a multiple of every [`Micro::NR`]. It affects results, because it fixes
/// the order of additions.
const KEYS: usize = 48;
/// A multiple of every [`Micro::NR`].
const ROUND: usize = 12;
/// Bytes that the parts of the scratch are aligned to.
const ALIGN: usize = 64;

/// Arguments of [`attention`]. Row strides are in elements; head `h` begins at column `h * head_dim`.
#[derive(Clone, Copy)]
pub struct AttentionArgs<'a> {
    /// Queries [queries, heads * head_dim].
    pub q: &'a [u8],
    /// Elements from one query to the next.
    pub q_stride: usize,
    /// Keys [keys, kv_heads * head_dim].
    pub k: &'a [u8],
    /// Elements from one key to the next.
    pub k_stride: usize,
    /// Values [keys, kv_heads * head_dim].
    pub v: &'a [u8],
    /// Elements from one value to the next.
    pub v_stride: usize,
    /// Rows of q and of the result.
    pub queries: usize,
    /// Rows of k and v.
    pub keys: usize,
    /// Heads of q.
    pub heads: usize,
    /// Heads of k and v: `heads / kv_heads` neighbouring heads of q share one.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Number of keys that count; the rest are padding. All of them by default.
    pub valid: Option<usize>,
    /// With `Some(p)`, query `i` sees only the keys `0..=p + i`.
    pub causal: Option<usize>,
    /// Elements from one row of the result to the next.
    pub out_stride: usize,
    /// Dtype of everything.
    pub act: DType,
}

impl std::fmt::Debug for AttentionArgs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "AttentionArgs({} queries, {} keys, {}/{} heads of {} {}, valid {:?}, causal {:?})",
            self.queries,
            self.keys,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.act,
            self.valid,
            self.causal
        )
    }
}

impl AttentionArgs<'_> {
    /// Keys that at least one query sees.
    fn seen(&self) -> usize {
        self.valid.map_or(self.keys, |v| v.min(self.keys))
    }

    fn check(&self, scratch: usize, out: usize, pool: Pool<'_>) -> Result<(), KernelError> {
        let bytes = act_bytes("act", self.act)?;
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(KernelError::Shape { what: "heads is not a multiple of kv_heads" });
        }
        let rows = [
            ("q", self.q.len(), self.queries, self.heads, self.q_stride),
            ("k", self.k.len(), self.keys, self.kv_heads, self.k_stride),
            ("v", self.v.len(), self.keys, self.kv_heads, self.v_stride),
            ("attention result", out, self.queries, self.heads, self.out_stride),
        ];
        for (what, len, rows, heads, stride) in rows {
            let width = heads.saturating_mul(self.head_dim);
            if stride < width {
                return Err(KernelError::Shape { what: "the heads do not fit the row stride" });
            }
            if rows > 0 {
                check_len(
                    what,
                    len.saturating_add((stride - width).saturating_mul(bytes)),
                    &[rows, stride, bytes],
                )?;
            }
        }
        check_len("attention scratch", scratch, &[attention_scratch_bytes(self.keys, self.head_dim, pool)])
    }
}

/// Bytes of scratch that [`attention`] needs with that pool; saturates on overflow.
pub fn attention_scratch_bytes(keys: usize, head_dim: usize, pool: Pool<'_>) -> usize {
    Layout::new(keys, head_dim).total.saturating_mul(4).saturating_mul(par::lanes(pool)).saturating_add(ALIGN)
}

/// Where the parts of a lane's scratch begin, in f32 values.
#[derive(Clone, Copy)]
struct Layout {
    /// `head_dim` and `keys`, rounded up to whole tiles.
    dim: usize,
    scores: usize,
    sums: usize,
    tile: usize,
    total: usize,
}

impl Layout {
    fn new(keys: usize, head_dim: usize) -> Layout {
        let up = |n: usize| n.div_ceil(ROUND).saturating_mul(ROUND);
        let (keys, dim) = (up(keys), up(head_dim));
        // The queries come first: `head_dim` rows of one vector each.
        let scores = dim.saturating_mul(LANES);
        let sums = scores.saturating_add(keys.saturating_mul(LANES));
        let tile = sums.saturating_add(dim.saturating_mul(LANES));
        let total = tile.saturating_add(dim.max(KC).saturating_mul(KEYS));
        Layout { dim, scores, sums, tile, total }
    }
}

/// `out = softmax(scale * q k^T) v` per head, all in f32 and rounded to `act` once.
///
/// A query that sees no key gives zeros. Sixteen queries of a head are computed side by side, so one query
/// costs as much as sixteen.
///
/// # Errors
/// If `act` is not a compute dtype, `heads` is not a multiple of `kv_heads`, or a slice is too short.
pub fn attention(
    isa: Isa,
    args: &AttentionArgs<'_>,
    scratch: &mut [u8],
    out: &mut [u8],
    pool: Pool<'_>,
) -> Result<(), KernelError> {
    args.check(scratch.len(), out.len(), pool)?;
    with_act!(args.act, A => match isa.kind() {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Amx | IsaKind::Avx512 => run::<A, super::linear::x86::Avx512>(isa, args, scratch, out, pool),
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => run::<A, super::linear::x86::Avx2>(isa, args, scratch, out, pool),
        _ => run::<A, micro::Portable>(isa, args, scratch, out, pool),
    });
    Ok(())
}

impl Cpu {
    pub(super) fn attention_scratch(&self, op: &Attention<'_>) -> u64 {
        attention_scratch_bytes(op.k.shape().rows(), op.head_dim(), Some(&self.pool)) as u64
    }

    pub(super) fn attention(
        &self,
        op: Attention<'_>,
        scratch: Option<&mut ViewMut<'_>>,
    ) -> Result<(), DeviceError> {
        let (name, head_dim) = (op.name(), op.head_dim());
        let Attention { q, k, v, heads, kv_heads, scale, causal, mut y } = op;
        let (width, kv_width) = (q.shape().last(), k.shape().last());
        let args = AttentionArgs {
            q: read(name, &q)?,
            q_stride: width,
            k: read(name, &k)?,
            k_stride: kv_width,
            v: read(name, &v)?,
            v_stride: kv_width,
            queries: q.shape().rows(),
            keys: k.shape().rows(),
            heads,
            kv_heads,
            head_dim,
            scale,
            valid: None,
            causal,
            out_stride: width,
            act: q.dtype(),
        };
        let scratch = room(name, scratch)?;
        attention(self.isa, &args, scratch, write(name, &mut y)?, Some(&self.pool))
            .map_err(|e| refused(name, e))
    }
}

fn run<A: Act, M: Micro>(
    isa: Isa,
    args: &AttentionArgs<'_>,
    scratch: &mut [u8],
    out: &mut [u8],
    pool: Pool<'_>,
) {
    const { assert!(ROUND.is_multiple_of(M::NR)) };
    let layout = Layout::new(args.keys, args.head_dim);
    let work = args.queries * args.heads * args.head_dim * args.seen() / 4;
    let pool = par::worth(pool, work);
    let blocks = args.queries.div_ceil(LANES);
    let skip = scratch.as_ptr().align_offset(ALIGN).min(scratch.len());
    // SAFETY: every pattern of bits is an f32.
    let scratch = unsafe { scratch[skip..].align_to_mut::<f32>().1 };
    let (scratch, out) = (Shared::new(scratch), Shared::new(out));
    par::for_each(pool, blocks * args.heads, |lane, task| {
        let (head, first) = (task / blocks, task % blocks * LANES);
        // SAFETY: the slice was found long enough for one such part per lane, and calls that run at once have
        // different lanes.
        let scratch = unsafe { scratch.slice(lane * layout.total, layout.total) };
        let count = LANES.min(args.queries - first);
        let block = Block::<A> { isa, args, layout, head, first, count, act: PhantomData };
        block.run::<M>(scratch, &out);
    });
}

/// Up to sixteen queries of one head.
struct Block<'a, A> {
    isa: Isa,
    args: &'a AttentionArgs<'a>,
    layout: Layout,
    head: usize,
    first: usize,
    count: usize,
    act: PhantomData<A>,
}

impl<A: Act> Block<'_, A> {
    fn run<M: Micro>(&self, scratch: &mut [f32], out: &Shared<'_, u8>) {
        let Layout { dim, scores, sums, tile, .. } = self.layout;
        let args = self.args;
        let (q, rest) = scratch.split_at_mut(scores);
        let (scores, rest) = rest.split_at_mut(sums - scores);
        let (sums, tile) = rest.split_at_mut(tile - sums);
        let head_dim = args.head_dim;
        let column = self.head * head_dim;
        let shared = self.head / (args.heads / args.kv_heads) * head_dim;
        let limits: [usize; LANES] = std::array::from_fn(|lane| match args.causal {
            Some(p) => args.seen().min(p.saturating_add(self.first + lane + 1)),
            None => args.seen(),
        });
        let seen = limits[self.count - 1];
        q.fill(0.0);
        for lane in 0..self.count {
            let row = Self::row(args.q, self.first + lane, args.q_stride, column, head_dim);
            dispatch(self.isa, Widen::<A> { row, out: &mut q[lane..], step: LANES, act: PhantomData });
        }
        for key in (0..seen).step_by(KEYS) {
            let count = KEYS.min(seen - key);
            for d in (0..head_dim).step_by(KC) {
                let len = KC.min(head_dim - d);
                let part = Part { row: key, rows: count, column: shared + d, len };
                self.widen(args.k, args.k_stride, part, tile, KC);
                for r in (0..count).step_by(M::NR) {
                    // SAFETY: q holds `head_dim` vectors, the tile `KEYS` rows of `KC`, and the scores a
                    // vector for each key, the keys rounded up to whole tiles; `KEYS` is a multiple of `NR`.
                    unsafe {
                        let (w, c) = (tile.as_ptr().add(r * KC), scores.as_mut_ptr().add((key + r) * LANES));
                        let x = [q.as_ptr().add(d * LANES); 2];
                        M::run::<1, KC>(Job { k: len, x, w, ldw: 0, c, ldc: LANES, accumulate: d > 0 });
                    }
                }
            }
        }
        let mut totals = [0f32; LANES];
        let weights = scores.as_chunks_mut::<LANES>().0;
        dispatch(
            self.isa,
            Softmax { scores: &mut weights[..seen], limits, scale: args.scale, totals: &mut totals },
        );
        sums.fill(0.0);
        for key in (0..seen).step_by(KEYS) {
            let count = KEYS.min(seen - key);
            let part = Part { row: key, rows: count, column: shared, len: head_dim };
            self.widen(args.v, args.v_stride, part, tile, dim);
            for d in (0..head_dim).step_by(M::NR) {
                // SAFETY: as above; the sums hold a vector for each of `dim >= d + NR` columns.
                unsafe {
                    let (w, c) = (tile.as_ptr().add(d), sums.as_mut_ptr().add(d * LANES));
                    let x = [scores.as_ptr().add(key * LANES); 2];
                    M::run::<1, 0>(Job { k: count, x, w, ldw: dim, c, ldc: LANES, accumulate: true });
                }
            }
        }
        for lane in 0..self.count {
            let start = (self.first + lane) * args.out_stride + column;
            // SAFETY: the heads fit the stride, the result was found long enough, and every task has a (query, head)
            // of its own.
            let out = unsafe { out.slice(start * A::BYTES, head_dim * A::BYTES) };
            dispatch(
                self.isa,
                Finish::<A> { sums: &sums[lane..], total: totals[lane], out, act: PhantomData },
            );
        }
    }

    fn row(bytes: &[u8], row: usize, stride: usize, column: usize, len: usize) -> &[u8] {
        &bytes[(row * stride + column) * A::BYTES..][..len * A::BYTES]
    }

    /// Part of one head of k or v as f32, in rows of `pitch`; the rest of the tile becomes zero.
    fn widen(&self, bytes: &[u8], stride: usize, part: Part, tile: &mut [f32], pitch: usize) {
        for (i, out) in tile.chunks_exact_mut(pitch).take(KEYS).enumerate() {
            if i < part.rows {
                let row = Self::row(bytes, part.row + i, stride, part.column, part.len);
                out[part.len..].fill(0.0);
                dispatch(self.isa, Widen::<A> { row, out, step: 1, act: PhantomData });
            } else {
                out.fill(0.0);
            }
        }
    }
}

/// Which rows and columns of k or v.
struct Part {
    row: usize,
    rows: usize,
    column: usize,
    len: usize,
}

/// Writes a row as f32, every `step` values.
struct Widen<'a, A> {
    row: &'a [u8],
    out: &'a mut [f32],
    step: usize,
    act: PhantomData<A>,
}

impl<A: Act> Body for Widen<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        if self.step == 1 {
            for (o, &v) in self.out.iter_mut().zip(A::slice(self.row)) {
                *o = A::get(v);
            }
        } else {
            for (o, &v) in self.out.iter_mut().step_by(self.step).zip(A::slice(self.row)) {
                *o = A::get(v);
            }
        }
    }
}

/// Turns scores into `exp(scale * score - max)`, zero beyond each query's limit, and adds them up.
struct Softmax<'a> {
    scores: &'a mut [[f32; LANES]],
    limits: [usize; LANES],
    scale: f32,
    totals: &'a mut [f32; LANES],
}

impl Body for Softmax<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let limits = self.limits.map(|l| u32::try_from(l).unwrap_or(u32::MAX));
        let mut max = [f32::NEG_INFINITY; LANES];
        for (key, scores) in (0u32..).zip(self.scores.iter_mut()) {
            for ((s, m), &limit) in scores.iter_mut().zip(&mut max).zip(&limits) {
                *s = if key < limit { *s * self.scale } else { f32::NEG_INFINITY };
                *m = if *s > *m { *s } else { *m };
            }
        }
        // A query without keys: keep infinity minus infinity away.
        let max = max.map(|m| if m == f32::NEG_INFINITY { 0.0 } else { m });
        for scores in self.scores.iter_mut() {
            for ((s, m), total) in scores.iter_mut().zip(&max).zip(self.totals.iter_mut()) {
                *s = exp::<FMA>(*s - m, 0.0);
                *total += *s;
            }
        }
    }
}

/// Divides one column of the sums by the total, and rounds it into a row of the result.
struct Finish<'a, A> {
    sums: &'a [f32],
    total: f32,
    out: &'a mut [u8],
    act: PhantomData<A>,
}

impl<A: Act> Body for Finish<'_, A> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        // No keys, no weight: zeros.
        let scale = if self.total == 0.0 { 0.0 } else { 1.0 / self.total };
        for (o, s) in A::slice_mut(self.out).iter_mut().zip(self.sums.iter().step_by(LANES)) {
            *o = A::put(s * scale);
        }
    }
}
