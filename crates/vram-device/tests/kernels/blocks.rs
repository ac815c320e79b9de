//! Quantised weights: what kernels make of blocks is, bit for bit, what they make of the decoded values.

use rayon::ThreadPool;
use vram_device::cpu::ops::{LinearArgs, gather_rows, linear, linear_pack, linear_scratch_bytes};
use vram_device::cpu::{Cpu, CpuOptions, Isa, KernelError};
use vram_device::{KernelsExt, View, ViewMut, ops};
use vram_types::{BlockType, DType, Encoding, TensorMeta};

use crate::util::*;

/// Blocks of wholly random bytes, infinities and NaNs among their scales, and what they decode to.
struct Weight {
    block: BlockType,
    stored: Odd,
    decoded: Vec<u8>,
    n: usize,
    k: usize,
}

impl Weight {
    fn new(random: &mut Random, block: BlockType, n: usize, blocks: usize) -> Weight {
        let stored: Vec<u8> =
            (0..n * blocks * block.block_bytes() as usize).map(|_| (random.next() >> 56) as u8).collect();
        Weight::of(block, n, blocks, stored)
    }

    /// The same without infinities and NaNs.
    fn finite(random: &mut Random, block: BlockType, n: usize, blocks: usize) -> Weight {
        let mut stored = Weight::new(random, block, n, blocks).stored.bytes().to_vec();
        let mut values = vec![0f32; block.block_elements() as usize];
        for bytes in stored.chunks_exact_mut(block.block_bytes() as usize) {
            block.decode_f32(bytes, &mut values).unwrap();
            while values.iter().any(|v| !v.is_finite()) {
                bytes.fill_with(|| (random.next() >> 56) as u8);
                block.decode_f32(bytes, &mut values).unwrap();
            }
        }
        Weight::of(block, n, blocks, stored)
    }

    fn of(block: BlockType, n: usize, blocks: usize, stored: Vec<u8>) -> Weight {
        let k = blocks * block.block_elements() as usize;
        let mut decoded = vec![0; n * k * 4];
        block.decode(&stored, &mut decoded).unwrap();
        Weight { block, stored: Odd::new(&stored), decoded, n, k }
    }

    /// The product with x of `m` rows, the rows of the weight in pieces.
    fn product(
        &self,
        (isa, pool): (Isa, Option<&ThreadPool>),
        (x, m, act): (&[u8], usize, DType),
        encoded: bool,
        pieces: &[usize],
    ) -> Vec<u8> {
        let Weight { block, n, k, .. } = *self;
        let (w, encoding) = match encoded {
            true => (self.stored.bytes(), Encoding::Blocks(block)),
            false => (&self.decoded[..], Encoding::Plain(DType::F32)),
        };
        let row = encoding.row_bytes(k as u64).unwrap() as usize;
        let mut scratch = vec![POISON; linear_scratch_bytes(isa, m, k, act)];
        linear_pack(isa, x, m, k, act, &mut scratch, pool).unwrap();
        let mut y = vec![POISON; m * n * size(act)];
        let mut first = 0;
        for &rows in pieces {
            let args = LinearArgs {
                packed: &scratch,
                m,
                k,
                w: &w[first * row..(first + rows) * row],
                w_encoding: encoding,
                scales: None,
                n: rows,
                bias: None,
                ldy: n,
                n0: first,
                act,
            };
            linear(isa, &args, &mut y, pool).unwrap();
            first += rows;
        }
        assert_eq!(first, n);
        y
    }
}

#[test]
fn a_product_with_blocks_is_that_with_what_they_decode_to() {
    let mut random = Random::new(30);
    let pools = [pool(1), pool(3)];
    for block in BlockType::ALL {
        // Tiles are 256 columns in f32 and 512 in pairs of bf16: some are whole, some end within.
        let long = 1120 / block.block_elements() as usize;
        for (m, n, blocks, finite) in [
            (1, 1, 1, false),
            (19, 50, 3, false),
            (3, 33, long, false),
            (5, 7, 0, false),
            (1, 65, long, true),
            (2, 33, long, true),
            (4, 7, 1, true),
            (7, 40, long, true),
        ] {
            let weight = match finite {
                true => Weight::finite(&mut random, block, n, blocks),
                false => Weight::new(&mut random, block, n, blocks),
            };
            for act in ACTS {
                let (_, x) = tensor(&mut random, m * weight.k, act);
                for isa in isas() {
                    let x = (&x[..], m, act);
                    let expected = weight.product((isa, None), x, false, &[n]);
                    let what = format!("{isa} {act} x {block} [{m}, {}] x [{n}, {}]", weight.k, weight.k);
                    assert!(weight.product((isa, None), x, true, &[n]) == expected, "{what}");
                    let cut = random.below(n);
                    for pool in &pools {
                        let split = weight.product((isa, Some(pool)), x, true, &[cut, n - cut]);
                        assert!(split == expected, "{what}, split at {cut}");
                    }
                }
            }
        }
    }
}

#[test]
fn many_rows_go_through_the_same_tiles() {
    let mut random = Random::new(31);
    let pool = pool(2);
    for block in [BlockType::Q4_0, BlockType::Q6_K] {
        let weight = Weight::new(&mut random, block, 70, 512 / block.block_elements() as usize);
        for act in [DType::F32, DType::BF16] {
            let (_, x) = tensor(&mut random, 300 * weight.k, act);
            for isa in isas() {
                let product =
                    |encoded| weight.product((isa, Some(&pool)), (&x, 300, act), encoded, &[weight.n]);
                assert!(product(true) == product(false), "{isa} {act} {block}");
            }
        }
    }
}

#[test]
fn rows_and_casts_of_blocks_are_those_of_what_they_decode_to() {
    let mut random = Random::new(32);
    let cpu = Cpu::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).unwrap();
    let pool = pool(3);
    for block in BlockType::ALL {
        for blocks in [0, 1, 9] {
            let Weight { stored, decoded, n, k, .. } = Weight::new(&mut random, block, 40, blocks);
            let ids = [0, 39, 7, 7, 3];
            for act in ACTS {
                let mut y = vec![POISON; ids.len() * k * size(act)];
                let mut expected = y.clone();
                for isa in isas() {
                    let table = (stored.bytes(), block.into());
                    gather_rows(isa, table, k, &ids, &mut y, act, Some(&pool)).unwrap();
                    let table = (&decoded[..], DType::F32.into());
                    gather_rows(isa, table, k, &ids, &mut expected, act, None).unwrap();
                    assert!(y == expected, "{isa} {act} {block}");
                }
                let meta = TensorMeta::new(act, [n, k]).unwrap();
                let mut y = vec![POISON; meta.bytes() as usize];
                let mut expected = y.clone();
                let x = View::encoded_host(stored.bytes(), [n, k], block.into()).unwrap();
                cpu.call(ops::Cast::new(x, ViewMut::host(&mut y, meta.clone()).unwrap()), None).unwrap();
                let x = View::host(&decoded, TensorMeta::new(DType::F32, [n, k]).unwrap()).unwrap();
                cpu.call(ops::Cast::new(x, ViewMut::host(&mut expected, meta).unwrap()), None).unwrap();
                assert!(y == expected, "cast of {block} to {act}");
            }
        }
    }
}

#[test]
fn rows_that_are_no_whole_blocks_are_refused() {
    let isa = Isa::best();
    let (packed, mut y) = (vec![0; linear_scratch_bytes(isa, 1, 48, DType::F32)], [POISON; 4]);
    let args = LinearArgs {
        packed: &packed,
        m: 1,
        k: 48,
        w: &[0; 36],
        w_encoding: BlockType::Q4_0.into(),
        scales: None,
        n: 1,
        bias: None,
        ldy: 1,
        n0: 0,
        act: DType::F32,
    };
    assert!(matches!(linear(isa, &args, &mut y, None), Err(KernelError::Shape { .. })));
    let table = (&[0; 36][..], BlockType::Q4_0.into());
    let gathered = gather_rows(isa, table, 48, &[0], &mut [POISON; 192], DType::F32, None);
    assert!(matches!(gathered, Err(KernelError::Shape { .. })));
    // One byte short of its rows.
    let args = LinearArgs { w: &[0; 17], k: 32, ..args };
    assert!(matches!(linear(isa, &args, &mut y, None), Err(KernelError::Length { .. })));
    assert_eq!(y, [POISON; 4]);
}
