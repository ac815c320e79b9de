//! Products of cublasLt: correct to f32 for every layout, and the same bits for the same algorithm
//! and inner dimension.

use std::ffi::c_void;
use std::ptr;

use half::{bf16, f16};

use crate::standin::{Standin, arg, ok};

/// `CUBLAS_STATUS_INVALID_VALUE`.
const INVALID_VALUE: u32 = 7;

/// `cudaDataType`.
const F32: u32 = 0;
const F16: u32 = 2;
const BF16: u32 = 14;

/// A product of `rows` x `columns` over `inner`, with leading dimensions that are `pad` larger
/// than necessary.
#[derive(Clone, Copy)]
struct Case {
    element: u32,
    result: u32,
    rows: usize,
    columns: usize,
    inner: usize,
    transposed: [bool; 2],
    pad: usize,
    batches: usize,
    factors: [f32; 2],
}

const PLAIN: Case = Case {
    element: F32,
    result: F32,
    rows: 5,
    columns: 7,
    inner: 33,
    transposed: [true, false],
    pad: 0,
    batches: 1,
    factors: [1.0, 0.0],
};

/// Pseudo-random values in -1..1.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn bytes_of(element: u32) -> usize {
    if element == F32 { 4 } else { 2 }
}

/// Values in a dtype, and the same values after rounding to it.
fn encode(element: u32, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let one = |v: f32| match element {
        F16 => (f16::from_f32(v).to_le_bytes().to_vec(), f16::from_f32(v).to_f32()),
        BF16 => (bf16::from_f32(v).to_le_bytes().to_vec(), bf16::from_f32(v).to_f32()),
        _ => (v.to_le_bytes().to_vec(), v),
    };
    let (bytes, rounded): (Vec<_>, Vec<_>) = values.iter().map(|v| one(*v)).unzip();
    (bytes.concat(), rounded)
}

fn decode(element: u32, bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks(bytes_of(element))
        .map(|b| match element {
            F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            BF16 => bf16::from_le_bytes([b[0], b[1]]).to_f32(),
            _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        })
        .collect()
}

/// The library objects of a case.
struct Objects {
    handle: usize,
    desc: usize,
    layouts: [usize; 4],
    preference: usize,
}

impl Objects {
    fn new(t: &Standin, case: &Case, split: bool) -> Self {
        let (mut handle, mut desc, mut preference) = (0, 0, 0);
        ok((t.s.cublasLtCreate)(&mut handle));
        ok((t.s.cublasLtMatmulDescCreate)(&mut desc, 68, 0));
        for (attribute, transposed) in [3, 4].into_iter().zip(case.transposed) {
            let value = u32::from(transposed);
            ok((t.s.cublasLtMatmulDescSetAttribute)(desc, attribute, arg(&value), 4));
        }
        let layouts = [0, 1, 2, 3].map(|i| {
            let ([rows, columns], ld, stride) = case.layout(i);
            let (mut layout, batches) = (0, case.batches as i32);
            let element = if i < 2 { case.element } else { case.result };
            ok((t.s.cublasLtMatrixLayoutCreate)(
                &mut layout,
                element,
                rows as u64,
                columns as u64,
                ld as i64,
            ));
            ok((t.s.cublasLtMatrixLayoutSetAttribute)(layout, 5, arg(&batches), 4));
            ok((t.s.cublasLtMatrixLayoutSetAttribute)(layout, 6, arg(&(stride as i64)), 8));
            layout
        });
        ok((t.s.cublasLtMatmulPreferenceCreate)(&mut preference));
        for (attribute, value) in [(3, u32::from(split)), (5, 16), (6, 16), (7, 16), (8, 16)] {
            ok((t.s.cublasLtMatmulPreferenceSetAttribute)(preference, attribute, arg(&value), 4));
        }
        Self { handle, desc, layouts, preference }
    }

    /// The proposals of the heuristic, best first.
    fn proposals(&self, t: &Standin) -> Vec<[u64; 12]> {
        let (mut found, mut count) = ([[0u64; 12]; 8], 0);
        let [a, b, c, d] = self.layouts;
        let results = found.as_mut_ptr();
        ok((t.s.cublasLtMatmulAlgoGetHeuristic)(
            self.handle,
            self.desc,
            a,
            b,
            c,
            d,
            self.preference,
            8,
            results,
            &mut count,
        ));
        found[..count as usize].to_vec()
    }

    fn destroy(self, t: &Standin) {
        self.layouts.into_iter().for_each(|l| ok((t.s.cublasLtMatrixLayoutDestroy)(l)));
        ok((t.s.cublasLtMatmulPreferenceDestroy)(self.preference));
        ok((t.s.cublasLtMatmulDescDestroy)(self.desc));
        ok((t.s.cublasLtDestroy)(self.handle));
    }
}

impl Case {
    /// Rows and columns as stored, leading dimension, and elements per batch.
    fn layout(&self, operand: usize) -> ([usize; 2], usize, usize) {
        let turned = |[r, c]: [usize; 2], t: bool| if t { [c, r] } else { [r, c] };
        let shape = match operand {
            0 => turned([self.rows, self.inner], self.transposed[0]),
            1 => turned([self.inner, self.columns], self.transposed[1]),
            _ => [self.rows, self.columns],
        };
        let ld = shape[0] + self.pad;
        (shape, ld, ld * shape[1])
    }

    /// Values of an operand, padding included.
    fn values(&self, operand: usize) -> Vec<f32> {
        noise(self.layout(operand).2 * self.batches, operand as u32 + 1)
    }

    /// The product with one of the proposed algorithms, and the rounded operands.
    fn run(&self, t: &Standin, split: bool, choose: usize) -> (Vec<f32>, [Vec<f32>; 3]) {
        let objects = Objects::new(t, self, split);
        let algorithm = objects.proposals(t)[choose];
        let [a, b, c] =
            [0, 1, 2].map(|i| encode(if i < 2 { self.element } else { self.result }, &self.values(i)));
        let [at_a, at_b, at_d] = [&a.0, &b.0, &c.0].map(|bytes| t.upload(bytes));
        let [la, lb, lc, ld] = objects.layouts;
        let [alpha, beta] = self.factors;
        ok((t.s.cublasLtMatmul)(
            objects.handle,
            objects.desc,
            arg(&alpha),
            at_a,
            la,
            at_b,
            lb,
            arg(&beta),
            at_d,
            lc,
            at_d,
            ld,
            algorithm.as_ptr(),
            ptr::null_mut::<c_void>(),
            0,
            0,
        ));
        let result = decode(self.result, &t.download::<u8>(at_d, c.0.len()));
        objects.destroy(t);
        (result, [a.1, b.1, c.1])
    }

    /// Compares every algorithm with sums in f64.
    fn check(&self, tolerance: f64) {
        let t = Standin::new(&[]);
        for choose in 0..3 {
            let (got, [a, b, c]) = self.run(&t, true, choose);
            let (lda, ldb, ldd) = (self.layout(0), self.layout(1), self.layout(3));
            for batch in 0..self.batches {
                for j in 0..self.columns {
                    for i in 0..ldd.1 {
                        let at = batch * ldd.2 + j * ldd.1 + i;
                        if i >= self.rows {
                            assert_eq!(got[at], c[at], "padding of column {j}");
                            continue;
                        }
                        let index = |t: bool, row: usize, column: usize, ld: usize| {
                            if t { row * ld + column } else { column * ld + row }
                        };
                        let (mut sum, mut size) = (0.0, 0.0);
                        for k in 0..self.inner {
                            let x = f64::from(a[batch * lda.2 + index(self.transposed[0], i, k, lda.1)]);
                            let y = f64::from(b[batch * ldb.2 + index(self.transposed[1], k, j, ldb.1)]);
                            sum += x * y;
                            size += (x * y).abs();
                        }
                        let [alpha, beta] = self.factors.map(f64::from);
                        let expected = alpha * sum + beta * f64::from(c[at]);
                        let difference = (f64::from(got[at]) - expected).abs();
                        assert!(
                            difference <= tolerance * (size + 1.0),
                            "({i}, {j}) of batch {batch}: {} for {expected}",
                            got[at]
                        );
                    }
                }
            }
        }
        assert_eq!(t.misuse(), [""; 0]);
    }
}

#[test]
fn products_are_right_in_every_layout() {
    let wide = Case { inner: 300, ..PLAIN };
    for transposed in [[true, false], [false, false], [false, true], [true, true]] {
        Case { transposed, pad: 3, ..wide }.check(1e-6);
    }
    Case { rows: 70, columns: 50, ..wide }.check(1e-6);
    Case { rows: 1, columns: 1, ..wide }.check(1e-6);
    Case { batches: 3, factors: [0.5, 2.0], ..wide }.check(1e-6);
}

#[test]
fn products_of_half_precision_are_summed_in_f32() {
    for element in [F16, BF16] {
        Case { element, inner: 2000, ..PLAIN }.check(1e-5);
    }
    Case { element: F16, result: F16, inner: 300, ..PLAIN }.check(1e-3);
    Case { element: BF16, result: BF16, inner: 300, factors: [1.0, 1.0], ..PLAIN }.check(1e-2);
}

/// An element depends on its row, its column and the inner dimension; the number of rows and
/// columns changes no bit.
#[test]
fn bits_depend_on_the_inner_extent_and_the_algorithm_alone() {
    let t = Standin::new(&[]);
    let large = Case { rows: 37, columns: 29, inner: 500, ..PLAIN };
    let bits = |case: &Case, choose: usize| -> Vec<u32> {
        let (got, _) = case.run(&t, false, choose);
        (0..4).map(|i| got[i].to_bits()).collect()
    };
    // The first proposal for 29 columns is the second for 4 columns.
    let small = Case { rows: 4, columns: 4, ..large };
    assert_eq!(bits(&large, 0), bits(&small, 1));
    assert_eq!(bits(&large, 1), bits(&small, 0));
    assert_ne!(bits(&large, 0), bits(&small, 0));
}

#[test]
fn sums_are_split_only_where_that_is_allowed() {
    let t = Standin::new(&[]);
    let case = Case { inner: 500, ..PLAIN };
    for split in [true, false] {
        let objects = Objects::new(&t, &case, split);
        let parts: Vec<[u32; 2]> = objects
            .proposals(&t)
            .iter()
            .map(|algorithm| {
                [2, 3].map(|attribute| {
                    let (mut value, mut written) = (0u32, 0);
                    let to = ptr::from_mut(&mut value).cast();
                    ok((t.s.cublasLtMatmulAlgoConfigGetAttribute)(
                        algorithm.as_ptr(),
                        attribute,
                        to,
                        4,
                        &mut written,
                    ));
                    assert_eq!(written, 4);
                    value
                })
            })
            .collect();
        let expected: &[[u32; 2]] = if split { &[[4, 2], [1, 0], [1, 0]] } else { &[[1, 0], [1, 0]] };
        assert_eq!(parts, expected);
        objects.destroy(&t);
    }
}

#[test]
fn products_that_do_not_fit() {
    let t = Standin::new(&[]);
    let objects = Objects::new(&t, &PLAIN, false);
    let algorithm = objects.proposals(&t)[0];
    let (one, zero, x) = (1.0f32, 0.0f32, t.alloc(4 * 33 * 7));
    let [la, lb, lc, ld] = objects.layouts;
    let multiply = |a: u64, b: u64, lb: usize, algorithm: &[u64; 12]| {
        let (h, p) = (objects.handle, objects.desc);
        let algorithm = algorithm.as_ptr();
        (t.s.cublasLtMatmul)(
            h,
            p,
            arg(&one),
            a,
            la,
            b,
            lb,
            arg(&zero),
            x,
            lc,
            x,
            ld,
            algorithm,
            ptr::null_mut(),
            0,
            0,
        )
    };
    let check = |status: u32, expected: u32, part: &str| {
        assert_eq!(status, expected, "{part}");
        if !part.is_empty() {
            t.expect_misuse(part);
        }
        ok((t.s.standin_forgive)());
    };
    check(multiply(x, x, la, &algorithm), INVALID_VALUE, "");
    check(multiply(x, x, lb, &[0; 12]), INVALID_VALUE, "");
    check(multiply(x, x, 7, &algorithm), INVALID_VALUE, "layout was destroyed, or never was one");
    check(multiply(x + 4, x, lb, &algorithm), INVALID_VALUE, "A at");
    check(multiply(x, x + 16, lb, &algorithm), 13, "B is out of range: bytes 16..940 of device allocation 1");
    let mut result = [0u64; 12];
    let (h, p) = (objects.handle, objects.desc);
    ok((t.s.cublasLtMatmulAlgoCheck)(h, p, la, lb, lc, ld, algorithm.as_ptr(), &mut result));
    assert_eq!(result, algorithm);
    assert_eq!(
        (t.s.cublasLtMatmulAlgoCheck)(h, p, lb, lb, lc, ld, algorithm.as_ptr(), &mut result),
        INVALID_VALUE
    );
    objects.destroy(&t);
}

/// A product is queued like a kernel, and waits for what it was told to wait for.
#[test]
fn products_run_late_and_race_like_kernels() {
    for waits in [true, false] {
        let t = Standin::new(&[]);
        let case = Case { rows: 4, columns: 4, inner: 4, ..PLAIN };
        let objects = Objects::new(&t, &case, false);
        let algorithm = objects.proposals(&t)[0];
        let (copies, computes, copied, host) = (t.stream(), t.stream(), t.event(), t.pinned(16));
        host.fill(1.0);
        let (x, d) = (t.alloc(64), t.alloc(64));
        ok((t.s.cuMemcpyHtoDAsync_v2)(x, host.as_ptr().cast(), 64, copies));
        ok((t.s.cuEventRecord)(copied, copies));
        if waits {
            ok((t.s.cuStreamWaitEvent)(computes, copied, 0));
        }
        let [la, lb, lc, ld] = objects.layouts;
        let (h, p, one, zero) = (objects.handle, objects.desc, 1.0f32, 0.0f32);
        let algorithm = algorithm.as_ptr();
        ok((t.s.cublasLtMatmul)(
            h,
            p,
            arg(&one),
            x,
            la,
            x,
            lb,
            arg(&zero),
            d,
            lc,
            d,
            ld,
            algorithm,
            ptr::null_mut(),
            0,
            computes,
        ));
        ok((t.s.cuStreamSynchronize)(computes));
        let found: Vec<f32> = t.download(d, 16);
        assert!(found.iter().all(|v| if waits { *v == 4.0 } else { v.is_nan() }), "{found:?}");
        assert_eq!(t.misuse().len(), if waits { 0 } else { 2 }, "{:?}", t.misuse());
        objects.destroy(&t);
    }
}
