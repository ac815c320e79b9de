//! Products by cublasLt and by our own kernels: neither depends on how many rows there are, on cuts or on where things lie.

use vram_device::cuda::{Cuda, CudaMatmul, CudaOptions};
use vram_device::{KernelsExt, Region, View, ViewMut, ops};
use vram_types::DType;
use vram_types::cast::cast;

use crate::util::{Random, f32s, get, meta, open, put, values};

/// Floats of a dtype, and what they are exactly.
fn random(random: &mut Random, dtype: DType, n: usize) -> (Vec<u8>, Vec<f64>) {
    let mut bytes = vec![0; n * dtype.bits() as usize / 8];
    cast(&f32s(&random.floats(n)), DType::F32, &mut bytes, dtype).unwrap();
    let exact = decode(&bytes, dtype);
    (bytes, exact)
}

fn decode(bytes: &[u8], dtype: DType) -> Vec<f64> {
    let mut wide = vec![0; bytes.len() * 32 / dtype.bits() as usize];
    cast(bytes, dtype, &mut wide, DType::F32).unwrap();
    values(&wide).into_iter().map(f64::from).collect()
}

struct Case {
    x: Vec<u8>,
    weight: Vec<u8>,
    bias: Vec<u8>,
    act: DType,
    extents: (usize, usize, usize),
}

/// Bytes `at` bytes behind the beginning of an allocation.
fn put_at(cuda: &Cuda, at: usize, bytes: &[u8]) -> Region {
    put(cuda, &[&vec![0xff; at][..], bytes].concat())
}

impl Case {
    /// Rows `first..` of the product, with the weight cut in pieces and everything askew by so many bytes.
    fn run(&self, cuda: &Cuda, first: usize, cuts: &[usize], (askew_x, askew_w): (usize, usize)) -> Vec<u8> {
        let (m, k, n) = self.extents;
        let (act, size) = (self.act, self.act.bits() as usize / 8);
        let x = put_at(cuda, askew_x, &self.x[first * k * size..]);
        let (weight, bias) = (put_at(cuda, askew_w, &self.weight), put_at(cuda, 1, &self.bias));
        let rows = m - first;
        let mut y = put(cuda, &vec![0xff; rows * n * size]);
        let mut from = 0;
        for &to in cuts.iter().chain([&n]) {
            let at = |at: usize| (at * size) as u64;
            let x = View::new(&x, askew_x as u64, meta(act, &[rows, k])).unwrap();
            let piece = meta(act, &[to - from, k]);
            let weight = View::new(&weight, askew_w as u64 + at(from * k), piece).unwrap();
            let bias = View::new(&bias, 1 + at(from), meta(act, &[to - from])).unwrap();
            let y = ViewMut::new(&mut y, 0, meta(act, &[rows, n])).unwrap();
            let op = ops::Linear::new(x, weight, y).with_bias(Some(bias)).at_output(from);
            cuda.call(op, None).unwrap();
            from = to;
        }
        get(cuda, &y)
    }
}

fn check(matmul: CudaMatmul) {
    let Some(cuda) = open(CudaOptions { matmul, ..Default::default() }) else { return };
    let mut seeds = Random::new(7);
    for (act, tolerance) in [(DType::F32, 1e-5), (DType::BF16, 1e-2), (DType::F16, 2e-3)] {
        // The second extent is one for the library, and one that it is not asked for.
        for extents in [(40, 64, 131), (3, 72, 17), (150, 33, 140)] {
            let (m, k, n) = extents;
            let (x, exact_x) = random(&mut seeds, act, m * k);
            let (weight, exact_w) = random(&mut seeds, act, n * k);
            let (bias, exact_b) = random(&mut seeds, act, n);
            let case = Case { x, weight, bias, act, extents };
            let what = format!("{matmul:?}, {act}, {extents:?}");
            let whole = case.run(&cuda, 0, &[], (0, 0));
            for (i, y) in decode(&whole, act).into_iter().enumerate() {
                let (x, w) = (&exact_x[i / n * k..][..k], &exact_w[i % n * k..][..k]);
                let terms = x.iter().zip(w).map(|(x, w)| x * w);
                let sum = terms.clone().sum::<f64>() + exact_b[i % n];
                let size = terms.map(f64::abs).sum::<f64>() + exact_b[i % n].abs();
                assert!((y - sum).abs() <= tolerance * size, "{what}, element {i}: {y} for {sum}");
            }
            let size = act.bits() as usize / 8;
            assert!(case.run(&cuda, 0, &[1, n / 2 + 1], (0, 0)) == whole, "{what}: cuts change bits");
            let last = (m - 1) * n * size;
            assert!(case.run(&cuda, m - 1, &[], (0, 0)) == whole[last..], "{what}: a row alone differs");
            assert!(case.run(&cuda, 0, &[], (size, 3)) == whole, "{what}: where it lies changes bits");
        }
    }
    println!("{matmul:?}: {cuda:?}");
    // Not all cards have BF16, which is said in a note; where there is the library, it computes the others.
    let notes = cuda.notes();
    let given_up = |dtype: DType| {
        notes.iter().any(|note| note.contains("is suitable") && note.contains(&format!("in {dtype}")))
    };
    assert!(!given_up(DType::F32) && !given_up(DType::F16), "{notes:?}");
}

#[test]
fn products_by_the_library_depend_on_their_rows_alone() {
    check(CudaMatmul::Auto);
}

#[test]
fn products_of_our_own_depend_on_their_rows_alone() {
    check(CudaMatmul::Own);
}

/// More rows and outputs than the workspace holds sums of at once.
#[test]
fn products_that_are_larger_than_the_workspace() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let mut seeds = Random::new(8);
    let (m, k, n) = (1027, 16, 4103);
    let (act, size) = (DType::BF16, 2);
    let (x, _) = random(&mut seeds, act, m * k);
    let (weight, _) = random(&mut seeds, act, n * k);
    let (bias, _) = random(&mut seeds, act, n);
    let case = Case { x, weight, bias, act, extents: (m, k, n) };
    let whole = case.run(&cuda, 0, &[], (0, 0));
    assert!(case.run(&cuda, 0, &[2000], (0, 5)) == whole, "cuts and places change bits");
    let tail = 1020 * n * size;
    assert!(case.run(&cuda, 1020, &[], (2, 0)) == whole[tail..], "rows apart differ");
}

/// More outputs than an algorithm computes at once.
#[test]
fn products_of_few_rows_and_many_outputs() {
    let Some(cuda) = open(CudaOptions::default()) else { return };
    let mut seeds = Random::new(9);
    let (m, k, n) = (3, 16, 33_333);
    let act = DType::F16;
    let [(x, _), (weight, _), (bias, _)] = [m * k, n * k, n].map(|count| random(&mut seeds, act, count));
    let case = Case { x, weight, bias, act, extents: (m, k, n) };
    let whole = case.run(&cuda, 0, &[], (0, 0));
    let cuts: Vec<usize> = (1..n).step_by(5000).collect();
    assert!(case.run(&cuda, 0, &cuts, (0, 0)) == whole, "cuts change bits");
}
