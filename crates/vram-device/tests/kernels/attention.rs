use rayon::ThreadPool;
use vram_device::cpu::Isa;
use vram_device::cpu::ops::{AttentionArgs, attention, attention_scratch_bytes};
use vram_types::DType;

use crate::util::*;

#[derive(Clone, Copy, Debug)]
struct Shape {
    queries: usize,
    keys: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    valid: Option<usize>,
    causal: Option<usize>,
}

struct Case {
    shape: Shape,
    act: DType,
    q: (Vec<f32>, Vec<u8>),
    k: (Vec<f32>, Vec<u8>),
    v: (Vec<f32>, Vec<u8>),
}

impl Case {
    fn new(random: &mut Random, shape: Shape, act: DType) -> Case {
        let (qw, kw) = (shape.heads * shape.dim + 3, shape.kv_heads * shape.dim + 1);
        Case {
            shape,
            act,
            q: tensor(random, shape.queries * qw, act),
            k: tensor(random, shape.keys * kw, act),
            v: tensor(random, shape.keys * kw, act),
        }
    }

    fn run(&self, isa: Isa, rows: (usize, usize), pool: Option<&ThreadPool>) -> Vec<u8> {
        let Shape { keys, heads, kv_heads, dim, valid, causal, .. } = self.shape;
        let e = size(self.act);
        let (q_stride, k_stride, out_stride) = (heads * dim + 3, kv_heads * dim + 1, heads * dim + 2);
        let mut scratch = vec![POISON; attention_scratch_bytes(keys, dim, pool)];
        let mut out = vec![POISON; (rows.1 - rows.0) * out_stride * e];
        let args = AttentionArgs {
            q: &self.q.1[rows.0 * q_stride * e..],
            q_stride,
            k: &self.k.1,
            k_stride,
            v: &self.v.1,
            v_stride: k_stride,
            queries: rows.1 - rows.0,
            keys,
            heads,
            kv_heads,
            head_dim: dim,
            scale: 1.0 / (dim as f32).sqrt(),
            valid,
            causal: causal.map(|p| p + rows.0),
            out_stride,
            act: self.act,
        };
        attention(isa, &args, &mut scratch, &mut out, pool).unwrap();
        let mut dense = Vec::new();
        for row in out.chunks(out_stride * e) {
            assert!(row[heads * dim * e..].iter().all(|&b| b == POISON));
            dense.extend(&row[..heads * dim * e]);
        }
        dense
    }

    fn expected(&self) -> Vec<(f64, f64)> {
        let Shape { queries, keys, heads, kv_heads, dim, valid, causal } = self.shape;
        let (qs, ks) = (heads * dim + 3, kv_heads * dim + 1);
        let mut out = Vec::new();
        for i in 0..queries {
            for h in 0..heads {
                let seen = valid.unwrap_or(keys).min(causal.map_or(keys, |p| p + i + 1));
                let kv = h / (heads / kv_heads) * dim;
                let dot = |j: usize| {
                    (0..dim).map(move |d| {
                        f64::from(self.q.0[i * qs + h * dim + d]) * f64::from(self.k.0[j * ks + kv + d])
                    })
                };
                let scores: Vec<f64> = (0..seen).map(|j| dot(j).sum::<f64>() / (dim as f64).sqrt()).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..dim {
                    let terms = (0..seen).map(|j| weights[j] / total * f64::from(self.v.0[j * ks + kv + d]));
                    let (sum, size) = terms.fold((0.0, 0.0), |(s, z), t| (s + t, z + t.abs()));
                    out.push((sum, size));
                }
            }
        }
        out
    }
}

const SHAPES: [Shape; 7] = [
    Shape { queries: 1, keys: 1, heads: 1, kv_heads: 1, dim: 1, valid: None, causal: None },
    Shape { queries: 19, keys: 19, heads: 3, kv_heads: 3, dim: 32, valid: Some(13), causal: None },
    Shape { queries: 33, keys: 130, heads: 2, kv_heads: 2, dim: 7, valid: None, causal: None },
    Shape { queries: 50, keys: 50, heads: 4, kv_heads: 2, dim: 64, valid: None, causal: Some(0) },
    Shape { queries: 5, keys: 70, heads: 3, kv_heads: 1, dim: 20, valid: None, causal: Some(65) },
    Shape { queries: 2, keys: 3, heads: 2, kv_heads: 1, dim: 300, valid: None, causal: None },
    Shape { queries: 17, keys: 49, heads: 1, kv_heads: 1, dim: 130, valid: Some(49), causal: None },
];

#[test]
fn agrees_with_f64() {
    let mut random = Random::new(20);
    for shape in SHAPES {
        for act in ACTS {
            let case = Case::new(&mut random, shape, act);
            let expected = case.expected();
            for isa in isas() {
                let out = decode(&case.run(isa, (0, shape.queries), None), act);
                near(&format!("{isa} {act} {shape:?}"), &out, &expected, tolerance(act));
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_alone_and_on_any_thread() {
    let mut random = Random::new(21);
    let pools = [pool(1), pool(2), pool(3)];
    for shape in SHAPES {
        for act in ACTS {
            let case = Case::new(&mut random, shape, act);
            for isa in isas() {
                let all = case.run(isa, (0, shape.queries), None);
                for pool in &pools {
                    assert_eq!(case.run(isa, (0, shape.queries), Some(pool)), all, "{isa} {act} {shape:?}");
                }
                let row = all.len() / shape.queries;
                for i in 0..shape.queries {
                    assert_eq!(
                        case.run(isa, (i, i + 1), None),
                        all[i * row..][..row],
                        "{isa} {act} {shape:?} {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn padding_does_not_show_and_no_keys_give_zeros() {
    let mut random = Random::new(22);
    let shape = Shape { queries: 4, keys: 30, heads: 2, kv_heads: 2, dim: 8, valid: Some(17), causal: None };
    for isa in isas() {
        let mut case = Case::new(&mut random, shape, DType::F32);
        let clean = case.run(isa, (0, 4), None);
        let row = (2 * 8 + 1) * 4;
        case.k.1[17 * row..].fill(POISON);
        case.v.1[17 * row..].fill(POISON);
        assert_eq!(case.run(isa, (0, 4), None), clean);
        case.shape.valid = Some(0);
        assert!(case.run(isa, (0, 4), None).iter().all(|&b| b == 0));
    }
}
