use proptest::prelude::*;
use rayon::ThreadPool;
use vram_device::cpu::ops::{LinearArgs, linear, linear_pack, linear_scratch_bytes};
use vram_device::cpu::{Isa, IsaKind, KernelError};
use vram_types::DType;

use crate::util::*;

struct Case {
    m: usize,
    k: usize,
    n: usize,
    act: DType,
    w_dtype: DType,
    x: Vec<u8>,
    w: Odd,
    bias: Option<(Vec<u8>, DType)>,
    expected: Vec<(f64, f64)>,
}

impl Case {
    fn new(
        random: &mut Random,
        m: usize,
        k: usize,
        n: usize,
        act: DType,
        w_dtype: DType,
        bias: Option<DType>,
    ) -> Case {
        let (x, x_bytes) = tensor(random, m * k, act);
        let (w, w_bytes) = tensor(random, n * k, w_dtype);
        let bias = bias.map(|d| (tensor(random, n, d), d));
        let w: Vec<f32> = w.into_iter().map(|v| quantise(v, act)).collect();
        let mut expected = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let b = bias.as_ref().map_or(0.0, |((v, _), _)| f64::from(quantise(v[j], act)));
                let (mut sum, mut size) = (b, b.abs());
                for c in 0..k {
                    let p = f64::from(x[i * k + c]) * f64::from(w[j * k + c]);
                    sum += p;
                    size += p.abs();
                }
                // A sum of random signs is much smaller than the sum of sizes; scale as its length does.
                expected.push((sum, sum.abs().max(size / (k as f64).sqrt())));
            }
        }
        let bias = bias.map(|((_, bytes), d)| (bytes, d));
        Case { m, k, n, act, w_dtype, x: x_bytes, w: Odd::new(&w_bytes), bias, expected }
    }

    /// The result for the rows of x and the rows of w given, in a y with a margin of poison that must stay.
    fn run(
        &self,
        isa: Isa,
        x: (usize, usize),
        pieces: &[usize],
        pool: Option<&ThreadPool>,
        odd: bool,
    ) -> Vec<u8> {
        let (e, we) = (size(self.act), size(self.w_dtype));
        let m = x.1 - x.0;
        let mut scratch = vec![POISON; linear_scratch_bytes(isa, m, self.k, self.act)];
        let x = &self.x[x.0 * self.k * e..x.1 * self.k * e];
        linear_pack(isa, x, m, self.k, self.act, &mut scratch, pool).unwrap();
        let (left, ldy) = (3, self.n + 5);
        let mut y = vec![POISON; m * ldy * e];
        let aligned = self.w.bytes().to_vec();
        let w = if odd { self.w.bytes() } else { &aligned };
        let mut first = 0;
        for &n in pieces {
            let args = LinearArgs {
                packed: &scratch,
                m,
                k: self.k,
                w: &w[first * self.k * we..(first + n) * self.k * we],
                w_encoding: self.w_dtype.into(),
                scales: None,
                n,
                bias: self.bias.as_ref().map(|(b, d)| (&b[first * size(*d)..(first + n) * size(*d)], *d)),
                ldy,
                n0: left + first,
                act: self.act,
            };
            linear(isa, &args, &mut y, pool).unwrap();
            first += n;
        }
        assert_eq!(first, self.n);
        let mut out = Vec::new();
        for row in y.chunks(ldy * e) {
            assert!(row[..left * e].iter().all(|&b| b == POISON), "wrote left of its columns");
            assert!(row[(left + self.n) * e..].iter().all(|&b| b == POISON), "wrote right of its columns");
            out.extend(&row[left * e..(left + self.n) * e]);
        }
        out
    }

    fn all(&self, isa: Isa) -> Vec<u8> {
        self.run(isa, (0, self.m), &[self.n], None, true)
    }
}

#[test]
fn agrees_with_f64_for_every_dtype_and_path() {
    let mut random = Random::new(1);
    for act in ACTS {
        for w_dtype in WEIGHTS {
            for (m, k, n) in [(1, 1, 1), (3, 33, 17), (16, 64, 32), (17, 300, 50), (35, 515, 61), (2, 31, 49)]
            {
                let bias = [None, Some(act), Some(w_dtype), Some(DType::F32)][random.below(4)];
                let case = Case::new(&mut random, m, k, n, act, w_dtype, bias);
                for isa in isas() {
                    let what = format!("{isa} {act} x {w_dtype} [{m}, {k}] x [{n}, {k}]");
                    near(&what, &decode(&case.all(isa), act), &case.expected, tolerance(act));
                }
            }
        }
    }
}

/// Few rows of x have lanes along the rows of W, many have lanes along the rows of x.
#[test]
fn few_rows_have_the_bits_of_many() {
    let mut random = Random::new(5);
    for act in ACTS {
        for w_dtype in WEIGHTS {
            for (k, n) in [(610, 75), (32, 32), (7, 1), (271, 90)] {
                let case = Case::new(&mut random, 19, k, n, act, w_dtype, Some(DType::F32));
                let row = n * size(act);
                for isa in isas() {
                    let all = case.all(isa);
                    for rows in 1..=10 {
                        let first = random.below(case.m - rows);
                        let few = case.run(isa, (first, first + rows), &[n], None, true);
                        assert!(
                            few == all[first * row..][..rows * row],
                            "{isa} {act} x {w_dtype} [{rows}, {k}] x [{n}, {k}]"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn many_rows_and_long_sums_agree_with_f64() {
    let mut random = Random::new(2);
    for (act, w_dtype) in [(DType::BF16, DType::BF16), (DType::F32, DType::F32), (DType::BF16, DType::F32)] {
        for (m, k, n) in [(300, 1100, 70), (256, 64, 96), (530, 40, 33)] {
            let case = Case::new(&mut random, m, k, n, act, w_dtype, Some(act));
            let pool = pool(2);
            for isa in isas() {
                let y = case.run(isa, (0, m), &[n], Some(&pool), true);
                near(&format!("{isa} {act} {m} {k} {n}"), &decode(&y, act), &case.expected, tolerance(act));
            }
        }
    }
}

#[test]
fn an_empty_sum_is_the_bias_and_empty_sides_are_nothing() {
    for isa in isas() {
        for act in ACTS {
            let mut random = Random::new(3);
            let case = Case::new(&mut random, 5, 0, 7, act, act, Some(act));
            let (bias, _) = case.bias.clone().unwrap();
            assert_eq!(case.all(isa), bias.repeat(5), "{isa} {act}");
            assert!(Case::new(&mut random, 0, 9, 7, act, act, None).all(isa).is_empty());
            assert!(Case::new(&mut random, 4, 9, 0, act, act, None).all(isa).is_empty());
        }
    }
}

#[test]
fn infinities_and_nans_stay_in_their_own_elements() {
    for isa in isas() {
        for act in ACTS {
            let mut random = Random::new(4);
            let mut case = Case::new(&mut random, 20, 70, 40, act, act, None);
            let clean = decode(&case.all(isa), act);
            let e = size(act);
            case.x[(3 * 70 + 5) * e..][..e].copy_from_slice(&encode(&[f32::INFINITY], DType::F32)[4 - e..]);
            if act == DType::F16 {
                case.x[(3 * 70 + 5) * e..][..e].copy_from_slice(&0x7c00u16.to_le_bytes());
            }
            let dirty = decode(&case.all(isa), act);
            for i in 0..20 {
                for j in 0..40 {
                    let (a, b) = (clean[i * 40 + j], dirty[i * 40 + j]);
                    if i == 3 {
                        assert!(!b.is_finite(), "{isa} {act} {j}: {b}");
                    } else {
                        assert_eq!(a.to_bits(), b.to_bits(), "{isa} {act} {i} {j}");
                    }
                }
            }
        }
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let isa = Isa::best();
    let scratch = vec![0u8; linear_scratch_bytes(isa, 2, 4, DType::F32)];
    let (w, mut y) = (vec![0u8; 48], vec![0u8; 24]);
    let good = LinearArgs {
        packed: &scratch,
        m: 2,
        k: 4,
        w: &w,
        w_encoding: DType::F32.into(),
        scales: None,
        n: 3,
        bias: None,
        ldy: 3,
        n0: 0,
        act: DType::F32,
    };
    assert_eq!(linear(isa, &good, &mut y, None), Ok(()));
    let bad = [
        LinearArgs { w: &w[1..], ..good },
        LinearArgs { packed: &scratch[1..], ..good },
        LinearArgs { n0: 1, ..good },
        LinearArgs { ldy: 4, ..good },
        LinearArgs { act: DType::I32, ..good },
        LinearArgs { w_encoding: DType::F64.into(), ..good },
        LinearArgs { bias: Some((&[0; 5], DType::BF16)), ..good },
        LinearArgs { n0: usize::MAX, ..good },
        LinearArgs { m: usize::MAX, ..good },
        LinearArgs { k: usize::MAX / 2, ..good },
    ];
    for args in bad {
        y.fill(POISON);
        assert!(linear(isa, &args, &mut y, None).is_err(), "{args:?}");
        assert!(y.iter().all(|&b| b == POISON));
    }
    assert!(linear_pack(isa, &[0; 31], 2, 4, DType::F32, &mut [0; 4096], None).is_err());
    assert!(linear_pack(isa, &[0; 32], 2, 4, DType::F32, &mut [0; 3], None).is_err());
}

#[test]
fn unknown_and_missing_paths_say_why() {
    assert_eq!(Isa::from_name("Portable").map(Isa::kind), Ok(IsaKind::Portable));
    let Err(KernelError::Isa { asked, reason }) = Isa::from_name("mmx") else { panic!() };
    assert_eq!(asked, "mmx");
    assert!(reason.contains("avx512"));
    for kind in IsaKind::ALL {
        match Isa::new(kind) {
            Ok(isa) => assert_eq!(isa.kind(), kind),
            Err(e) => println!("{kind} skipped: {e}"),
        }
    }
}

fn shape() -> impl Strategy<Value = (usize, usize, usize, usize, usize, u64)> {
    (1usize..70, 1usize..700, 1usize..130, 0usize..ACTS.len(), 0usize..WEIGHTS.len(), any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever the caller and the scheduler do, every element has the same bits.
    #[test]
    fn bits_depend_on_nothing_but_their_own_inputs((m, k, n, act, w_dtype, seed) in shape()) {
        let mut random = Random::new(seed);
        let case = Case::new(&mut random, m, k, n, ACTS[act], WEIGHTS[w_dtype], Some(ACTS[act]));
        let row = n * size(ACTS[act]);
        let pools = [pool(1), pool(2), pool(3)];
        for isa in isas() {
            let all = case.all(isa);
            for pool in &pools {
                prop_assert_eq!(&case.run(isa, (0, m), &[n], Some(pool), true), &all, "threads, {}", isa);
            }
            prop_assert_eq!(&case.run(isa, (0, m), &[n], None, false), &all, "alignment, {}", isa);
            let i = random.below(m);
            prop_assert_eq!(&case.run(isa, (i, i + 1), &[n], None, true)[..], &all[i * row..][..row], "row, {}", isa);
            let cut = random.below(m + 1);
            let mut parts = case.run(isa, (0, cut), &[n], None, true);
            parts.extend(case.run(isa, (cut, m), &[n], None, true));
            prop_assert_eq!(&parts, &all, "rows of x, {}", isa);
            let mut pieces = Vec::new();
            let mut left = n;
            while left > 0 {
                let piece = 1 + random.below(left);
                pieces.push(piece);
                left -= piece;
            }
            prop_assert_eq!(&case.run(isa, (0, m), &pieces, Some(&pools[1]), true), &all, "rows of w, {}", isa);
        }
    }
}
