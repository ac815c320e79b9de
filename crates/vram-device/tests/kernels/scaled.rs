//! Weights with scales: what kernels make of them is, bit for bit, what they make of the products.

use vram_device::cpu::ops::{LinearArgs, ScaleArgs, linear, linear_pack, linear_scratch_bytes};
use vram_device::cpu::{Cpu, CpuOptions, Isa};
use vram_device::{DeviceError, Kernels, KernelsExt, View, ViewMut, ops};
use vram_types::cast::cast;
use vram_types::encoding::{ScaleBlocks, ScaledRows};
use vram_types::{DType, Encoding, Shape, TensorMeta};

use crate::util::*;

/// Numbers in random bytes, one scale for each block, and their products.
struct Weight {
    dtype: DType,
    numbers: Odd,
    scales: (Odd, DType),
    blocks: ScaleBlocks,
    products: Vec<u8>,
    n: usize,
    k: usize,
}

fn floats(bytes: &[u8], dtype: DType) -> Vec<f32> {
    let mut wide = vec![0; bytes.len() / size(dtype) * 4];
    cast(bytes, dtype, &mut wide, DType::F32).unwrap();
    wide.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

impl Weight {
    fn new(random: &mut Random, dtypes: [DType; 2], shape: [usize; 2], scales: &[usize]) -> Weight {
        let [dtype, of_scales] = dtypes;
        let blocks = ScaleBlocks::new(&shape.into(), &Shape::new(scales)).unwrap();
        let numbers: Vec<u8> =
            (0..shape[0] * shape[1] * size(dtype)).map(|_| (random.next() >> 56) as u8).collect();
        let (_, scales) = tensor(random, scales.iter().product(), of_scales);
        let mut products = floats(&numbers, dtype);
        blocks.multiply(&mut products, 0, &floats(&scales, of_scales), 0);
        let products = products.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (numbers, scales) = (Odd::new(&numbers), (Odd::new(&scales), of_scales));
        Weight { dtype, numbers, scales, blocks, products, n: shape[0], k: shape[1] }
    }

    fn scales(&self, rows: &ScaledRows) -> &[u8] {
        let (bytes, dtype) = &self.scales;
        let needed = rows.scales();
        &bytes.bytes()[needed.start as usize * size(*dtype)..needed.end as usize * size(*dtype)]
    }

    fn view(&self) -> View<'_> {
        let rows = ScaledRows::all(&self.blocks).unwrap();
        let values = self.scales(&rows);
        let count = values.len() / size(self.scales.1);
        let values = View::host(values, TensorMeta::new(self.scales.1, [count]).unwrap()).unwrap();
        let meta = TensorMeta::new(self.dtype, [self.n, self.k]).unwrap();
        View::host(self.numbers.bytes(), meta).unwrap().scaled(values, rows).unwrap()
    }

    /// The product with x of `m` rows, the rows of the weight in pieces.
    fn product(
        &self,
        isa: Isa,
        (x, m, act): (&[u8], usize, DType),
        with_scales: bool,
        pieces: &[usize],
    ) -> Vec<u8> {
        let Weight { n, k, .. } = *self;
        let pool = pool(2);
        let mut scratch = vec![POISON; linear_scratch_bytes(isa, m, k, act)];
        linear_pack(isa, x, m, k, act, &mut scratch, Some(&pool)).unwrap();
        let mut y = vec![POISON; m * n * size(act)];
        let mut first = 0;
        for &count in pieces {
            let rows = ScaledRows::new(&self.blocks, first..first + count).unwrap();
            let (w, w_encoding, scales) = match with_scales {
                true => {
                    let values = (self.scales(&rows), self.scales.1);
                    let scales = Some(ScaleArgs { values, rows: &rows });
                    (self.numbers.bytes(), Encoding::Scaled(self.dtype), scales)
                }
                false => (&self.products[..], Encoding::Plain(DType::F32), None),
            };
            let row = w_encoding.row_bytes(k as u64).unwrap() as usize;
            let w = &w[first * row..(first + count) * row];
            let (packed, bias, ldy, n0) = (&scratch[..], None, n, first);
            let args = LinearArgs { packed, m, k, w, w_encoding, scales, n: count, bias, ldy, n0, act };
            linear(isa, &args, &mut y, Some(&pool)).unwrap();
            first += count;
        }
        assert_eq!(first, n);
        y
    }
}

#[test]
fn a_product_with_scales_is_that_with_the_products() {
    let mut random = Random::new(40);
    for (dtypes, shape, scales) in [
        ([DType::F8_E4M3, DType::F32], [50, 640], &[][..]),
        ([DType::F8_E5M2, DType::BF16], [50, 70], &[50, 1]),
        ([DType::F8_E4M3, DType::F16], [300, 257], &[3, 3]),
        ([DType::F8_E4M3, DType::F32], [33, 60], &[33, 5]),
        ([DType::BF16, DType::F32], [33, 60], &[1, 60]),
    ] {
        let weight = Weight::new(&mut random, dtypes, shape, scales);
        let [n, k] = shape;
        for (m, act) in [(1, DType::F32), (19, DType::F32), (19, DType::BF16), (3, DType::F16)] {
            let (_, x) = tensor(&mut random, m * k, act);
            for isa in isas() {
                let what = format!("{isa} {act} x {dtypes:?} {shape:?} by {scales:?}");
                let expected = weight.product(isa, (&x, m, act), false, &[n]);
                assert!(weight.product(isa, (&x, m, act), true, &[n]) == expected, "{what}");
                for cut in [16, random.below(n)] {
                    let split = weight.product(isa, (&x, m, act), true, &[cut, n - cut]);
                    assert!(split == expected, "{what}, split at {cut}");
                }
            }
        }
    }
}

#[test]
fn a_cast_multiplies_and_nothing_forgets_the_scales() {
    let mut random = Random::new(41);
    let cpu = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
    let weight = Weight::new(&mut random, [DType::F8_E4M3, DType::F32], [70, 130], &[70, 2]);
    for act in ACTS {
        let meta = TensorMeta::new(act, [70, 130]).unwrap();
        let mut y = vec![POISON; meta.bytes() as usize];
        let mut expected = y.clone();
        cpu.call(ops::Cast::new(weight.view(), ViewMut::host(&mut y, meta).unwrap()), None).unwrap();
        cast(&weight.products, DType::F32, &mut expected, act).unwrap();
        assert!(y == expected, "{act}");
    }
    // Rows of a table, and whatever does not decode, refuse it by name.
    let (mut y, meta) = ([0; 520], TensorMeta::new(DType::F32, [1, 130]).unwrap());
    let refused = cpu.call(ops::Gather::new(weight.view(), &[0], ViewMut::host(&mut y, meta).unwrap()), None);
    let says = |e: &DeviceError, what: &str| assert!(e.to_string().contains(what), "{e}");
    says(&refused.unwrap_err(), "F8_E4M3 with scales");
    let mut y = vec![0; 70 * 130 * 4];
    let y = ViewMut::host(&mut y, TensorMeta::new(DType::F32, [70, 130]).unwrap()).unwrap();
    says(&cpu.call(ops::Binary::add(weight.view(), y), None).unwrap_err(), "F8_E4M3 with scales");
    let fnuz = View::encoded_absent([4, 4], Encoding::Scaled(DType::F8_E4M3FNUZ)).unwrap();
    let y = ViewMut::absent(TensorMeta::new(DType::F32, [4, 4]).unwrap());
    says(&cpu.takes(&ops::Cast::new(fnuz, y).into()).unwrap_err(), "F8_E4M3FNUZ with scales");
    // There is no such view without scales, or with some that do not fit.
    let numbers = [0; 16];
    let encoding = Encoding::Scaled(DType::F8_E4M3);
    says(&View::encoded_host(&numbers, [4, 4], encoding).unwrap_err(), "it has none");
    let blocks = ScaleBlocks::new(&[4, 4].into(), &[4, 1].into()).unwrap();
    let scaled = |rows: std::ops::Range<usize>, count: usize| {
        let numbers = View::host(&numbers, TensorMeta::new(DType::F8_E4M3, [4, 4]).unwrap()).unwrap();
        let scales = View::absent(TensorMeta::new(DType::F32, [count]).unwrap());
        numbers.scaled(scales, ScaledRows::new(&blocks, rows).unwrap())
    };
    scaled(0..4, 4).unwrap();
    says(&scaled(0..3, 3).unwrap_err(), "scales for [3, 4]");
    says(&scaled(0..4, 5).unwrap_err(), "4 numbers are needed");
}
