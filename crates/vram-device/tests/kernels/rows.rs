use vram_device::cpu::Isa;
use vram_device::cpu::ops::{add, add_bias, gather_rows, layer_norm, mul, rms_norm, unary};
use vram_device::ops::UnaryKind::{self, Gelu, GeluSigmoid, GeluTanh, Sigmoid, Silu, Tanh};
use vram_types::DType;

use crate::util::*;

fn exact(values: impl IntoIterator<Item = f64>) -> Vec<(f64, f64)> {
    values.into_iter().map(|v| (v, v.abs())).collect()
}

#[test]
fn norms_agree_with_f64_and_rows_do_not_touch() {
    let mut random = Random::new(10);
    let pool = pool(2);
    for act in ACTS {
        for w_dtype in WEIGHTS {
            for (rows, width) in [(1, 1), (3, 7), (2, 32), (5, 333), (40, 1024)] {
                let (x, x_bytes) = tensor(&mut random, rows * width, act);
                let (w, w_bytes) = tensor(&mut random, width, w_dtype);
                let (b, b_bytes) = tensor(&mut random, width, act);
                let w_odd = Odd::new(&w_bytes);
                let w: Vec<f64> = w.iter().map(|&v| f64::from(quantise(v, act))).collect();
                let (mut rms, mut layer) = (Vec::new(), Vec::new());
                for row in x.chunks(width) {
                    let n = width as f64;
                    let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                    let square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
                    let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
                    for (i, &v) in row.iter().enumerate() {
                        let r = f64::from(v) / (square + 1e-6).sqrt();
                        rms.push((r * w[i], (r * w[i]).abs()));
                        let l = (f64::from(v) - mean) / (variance + 1e-5).sqrt();
                        let bias = f64::from(b[i]);
                        layer
                            .push((l * w[i] + bias, (l * w[i]).abs() + bias.abs() + mean.abs() * w[i].abs()));
                    }
                }
                for isa in isas() {
                    let what = format!("{isa} {act} {w_dtype} [{rows}, {width}]");
                    let (w, b) = ((w_odd.bytes(), w_dtype), Some((&b_bytes[..], act)));
                    let mut y = vec![POISON; x_bytes.len()];
                    rms_norm(isa, &x_bytes, width, Some(w), 1e-6, &mut y, act, Some(&pool)).unwrap();
                    near(&format!("rms {what}"), &decode(&y, act), &rms, tolerance(act));
                    let row = width * size(act);
                    let mut alone = vec![POISON; row];
                    let last = &x_bytes[(rows - 1) * row..];
                    rms_norm(isa, last, width, Some(w), 1e-6, &mut alone, act, None).unwrap();
                    assert_eq!(alone, y[(rows - 1) * row..], "{what}");
                    y.fill(POISON);
                    layer_norm(isa, &x_bytes, width, Some(w), b, 1e-5, &mut y, act, Some(&pool)).unwrap();
                    if width > 1 {
                        near(&format!("layer {what}"), &decode(&y, act), &layer, 2.0 * tolerance(act));
                    }
                    layer_norm(isa, last, width, Some(w), b, 1e-5, &mut alone, act, None).unwrap();
                    assert_eq!(alone, y[(rows - 1) * row..], "{what}");
                }
            }
        }
    }
}

#[test]
fn rms_norm_rounds_before_the_weight() {
    // 3 / sqrt(mean of squares) is no bf16; the product with the weight must be that of the rounded value.
    let values = [3.0f32, 1.0, 2.0, 0.5];
    let square = values.iter().map(|v| v * v).sum::<f32>() / 4.0;
    let (x, w) = (encode(&values, DType::BF16), encode(&[1.375; 4], DType::BF16));
    for isa in isas() {
        let mut y = vec![POISON; 8];
        rms_norm(isa, &x, 4, Some((&w, DType::BF16)), 1e-6, &mut y, DType::BF16, None).unwrap();
        for (y, v) in decode(&y, DType::BF16).into_iter().zip(values) {
            let normal = quantise(v * (1.0 / (square + 1e-6).sqrt()), DType::BF16);
            assert_eq!(y, quantise(normal * 1.375, DType::BF16));
        }
    }
}

/// erfc by its continued fraction (large) or the series of erf (small), in f64.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut f = 0.0;
    for n in (1..200).rev() {
        f = f64::from(n) / 2.0 / (x + f);
    }
    (-x * x).exp() / (x + f) / std::f64::consts::PI.sqrt()
}

#[test]
fn gelu_and_silu_are_good_to_a_millionth() {
    let xs: Vec<f32> =
        (-13_000..13_000).map(|i| i as f32 / 1000.0).chain([1e-20, -1e-20, 30.0, 1e30]).collect();
    let gelus = xs.iter().map(|&x| f64::from(x) * erfc(-f64::from(x) / 2f64.sqrt()) / 2.0);
    let silus = xs.iter().map(|&x| f64::from(x) / (1.0 + (-f64::from(x)).exp()));
    let (gelus, silus) = (exact(gelus), exact(silus));
    let pool = pool(3);
    for isa in isas() {
        for act in ACTS {
            let tolerance = match act {
                DType::F32 => 1.0e-6,
                DType::BF16 => 4e-3,
                _ => continue,
            };
            let encoded = encode(&xs.iter().map(|&x| quantise(x, act)).collect::<Vec<_>>(), act);
            let (mut g, mut s) = (encoded.clone(), encoded.clone());
            unary(isa, Gelu, &mut g, act, Some(&pool)).unwrap();
            unary(isa, Silu, &mut s, act, Some(&pool)).unwrap();
            if act == DType::F32 {
                near(&format!("gelu {isa}"), &decode(&g, act), &gelus, tolerance);
                near(&format!("silu {isa}"), &decode(&s, act), &silus, tolerance);
            }
            // One element alone has the same bits, and bf16 is the rounded f32.
            let e = size(act);
            for i in (0..xs.len()).step_by(997) {
                let mut one = encoded[i * e..][..e].to_vec();
                unary(isa, Gelu, &mut one, act, None).unwrap();
                assert_eq!(one, g[i * e..][..e]);
                let mut wide = encode(&decode(&encoded[i * e..][..e], act), DType::F32);
                unary(isa, Gelu, &mut wide, DType::F32, None).unwrap();
                assert_eq!(decode(&one, act)[0], quantise(decode(&wide, DType::F32)[0], act));
            }
        }
        let mut special = encode(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 0.0], DType::F32);
        unary(isa, Gelu, &mut special, DType::F32, None).unwrap();
        let special = decode(&special, DType::F32);
        assert_eq!(special[0], f32::INFINITY);
        assert!(special[2].is_nan());
        assert_eq!((special[3], special[4]), (0.0, 0.0));
        let mut special = encode(&[f32::INFINITY, -1e30, f32::NAN], DType::F32);
        unary(isa, Silu, &mut special, DType::F32, None).unwrap();
        let special = decode(&special, DType::F32);
        assert_eq!((special[0], special[1]), (f32::INFINITY, 0.0));
        assert!(special[2].is_nan());
    }
}

/// What is right, in f64.
fn exactly(kind: UnaryKind, x: f64) -> f64 {
    let sigmoid = |t: f64| 1.0 / (1.0 + (-t).exp());
    match kind {
        GeluTanh => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))),
        GeluSigmoid => x * sigmoid(1.702 * x),
        Silu => x * sigmoid(x),
        Tanh => x.tanh(),
        Sigmoid => sigmoid(x),
        _ => x * erfc(-x / 2f64.sqrt()) / 2.0,
    }
}

#[test]
fn functions_are_good_to_a_millionth_down_to_their_tails() {
    let xs: Vec<f32> = (-90_000..90_000)
        .map(|i| i as f32 / 997.0)
        .chain((-200..=127).flat_map(|e| [1.0, -1.3].map(|m| m * 2f32.powi(e.max(-126)))))
        .collect();
    for isa in isas() {
        for kind in [GeluTanh, GeluSigmoid, Tanh, Sigmoid] {
            let mut y = encode(&xs, DType::F32);
            unary(isa, kind, &mut y, DType::F32, None).unwrap();
            for (&x, y) in xs.iter().zip(decode(&y, DType::F32)) {
                let right = exactly(kind, f64::from(x));
                // Nearer to the smallest normal number `exp` gives zero or infinity already.
                let tail = right.abs() < 100.0 * f64::from(f32::MIN_POSITIVE);
                let error = (f64::from(y) - right).abs() / if tail { 1e-30 } else { right.abs() };
                assert!(error < 1e-6, "{isa} {kind:?} of {x:e} is {y:e} and not {right:e}: {error:e}");
            }
        }
    }
}

#[test]
fn functions_of_no_number_and_of_infinity() {
    let infinity = f32::INFINITY;
    for isa in isas() {
        for kind in UnaryKind::ALL {
            let mut y = encode(&[f32::NAN, infinity, -1e30, -0.0, 0.0, -infinity], DType::F32);
            unary(isa, kind, &mut y, DType::F32, None).unwrap();
            let y = decode(&y, DType::F32);
            assert!(y[0].is_nan(), "{isa} {kind:?} {y:?}");
            let (above, below, zero) = match kind {
                Tanh => (1.0, -1.0, 0.0),
                Sigmoid => (1.0, 0.0, 0.5),
                _ => (infinity, 0.0, 0.0),
            };
            assert_eq!(y[1..5], [above, below, zero, zero], "{isa} {kind:?}");
            if matches!(kind, Tanh | Sigmoid) {
                assert_eq!(y[5], below, "{isa} {kind:?}");
            }
            if kind != Sigmoid {
                assert!(y[3].is_sign_negative() && y[4].is_sign_positive(), "{isa} {kind:?} {y:?}");
            }
        }
    }
}

#[test]
fn sums_and_products_are_rounded_once() {
    let mut random = Random::new(11);
    let pool = pool(2);
    for act in ACTS {
        for n in [1, 15, 1000, 70_001] {
            let (x, x_bytes) = tensor(&mut random, n, act);
            let (y, y_bytes) = tensor(&mut random, n, act);
            for isa in isas() {
                let mut out = y_bytes.clone();
                add(isa, &x_bytes, &mut out, act, Some(&pool)).unwrap();
                let sums: Vec<f32> = x.iter().zip(&y).map(|(a, b)| quantise(a + b, act)).collect();
                assert!(decode(&out, act) == sums, "{isa} {act} {n}");
                let mut out = y_bytes.clone();
                mul(isa, &x_bytes, &mut out, act, Some(&pool)).unwrap();
                let products: Vec<f32> = x.iter().zip(&y).map(|(a, b)| quantise(a * b, act)).collect();
                assert!(decode(&out, act) == products, "{isa} {act} {n}");
            }
        }
    }
    assert!(add(Isa::best(), &[0; 4], &mut [0; 8], DType::F32, None).is_err());
}

#[test]
fn a_bias_goes_to_every_row() {
    let mut random = Random::new(12);
    for act in ACTS {
        for b_dtype in WEIGHTS {
            let (y, y_bytes) = tensor(&mut random, 9 * 37, act);
            let (b, b_bytes) = tensor(&mut random, 37, b_dtype);
            for isa in isas() {
                let mut out = y_bytes.clone();
                add_bias(isa, (&b_bytes, b_dtype), &mut out, 37, act, None).unwrap();
                let sums = y.iter().enumerate().map(|(i, y)| quantise(y + quantise(b[i % 37], act), act));
                assert!(decode(&out, act) == sums.collect::<Vec<_>>(), "{isa} {act} {b_dtype}");
            }
        }
    }
}

#[test]
fn rows_are_gathered_and_rounded() {
    let mut random = Random::new(13);
    let ids = [3u32, 0, 3, 10, 7];
    for act in ACTS {
        for dtype in WEIGHTS {
            let (table, bytes) = tensor(&mut random, 11 * 29, dtype);
            let odd = Odd::new(&bytes);
            let expected: Vec<f32> = ids
                .iter()
                .flat_map(|&id| &table[id as usize * 29..][..29])
                .map(|&v| quantise(v, act))
                .collect();
            for isa in isas() {
                let mut y = vec![POISON; ids.len() * 29 * size(act)];
                gather_rows(isa, (odd.bytes(), dtype.into()), 29, &ids, &mut y, act, None).unwrap();
                assert!(decode(&y, act) == expected, "{isa} {act} {dtype}");
                assert!(gather_rows(isa, (odd.bytes(), dtype.into()), 29, &[11], &mut y, act, None).is_err());
            }
        }
    }
}

#[test]
fn every_half_is_read_and_written_exactly() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let ids: Vec<u32> = vec![0];
    for isa in isas() {
        for dtype in [DType::F16, DType::BF16] {
            let mut wide = vec![POISON; 65536 * 4];
            gather_rows(isa, (&all, dtype.into()), 65536, &ids, &mut wide, DType::F32, None).unwrap();
            let expected = decode(&all, dtype);
            for (a, b) in decode(&wide, DType::F32).into_iter().zip(&expected) {
                assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{isa} {dtype} {a} {b}");
            }
            let mut back = vec![POISON; 65536 * 2];
            gather_rows(isa, (&wide, DType::F32.into()), 65536, &ids, &mut back, dtype, None).unwrap();
            for (i, (a, b)) in back.chunks(2).zip(all.chunks(2)).enumerate() {
                assert!(a == b || expected[i].is_nan(), "{isa} {dtype} {i:#x}");
            }
        }
    }
}
