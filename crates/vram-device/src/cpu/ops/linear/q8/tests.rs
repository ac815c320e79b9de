//! Blocks taken apart are what they decode to, on every path.

use vram_types::{BlockType, DType, Encoding};

use super::*;

const ISAS: [IsaKind; 4] = IsaKind::ALL;

fn random(state: &mut u64) -> u8 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 56) as u8
}

/// Rows of blocks whose scales are finite.
fn weight(block: BlockType, rows: usize, blocks: usize) -> (Vec<u8>, Vec<f32>) {
    let (bytes, elements) = (block.block_bytes() as usize, block.block_elements() as usize);
    let mut state = 7 + bytes as u64;
    let (mut stored, mut values) = (Vec::new(), Vec::new());
    while stored.len() < rows * blocks * bytes {
        let bytes: Vec<u8> = (0..bytes).map(|_| random(&mut state)).collect();
        let mut decoded = vec![0f32; elements];
        block.decode_f32(&bytes, &mut decoded).unwrap();
        // Also none that are subnormal, which may count as zero.
        if decoded.iter().all(|v| v.is_finite() && v.abs() < 1e9) {
            stored.extend(bytes);
            values.extend(decoded);
        }
    }
    (stored, values)
}

#[test]
fn the_types_that_activations_name_are_those_with_a_form() {
    for block in BlockType::ALL {
        let has_form = with_form!(block, F => F::ELEMENTS > 0, false);
        assert_eq!(Activations::Q8.applies_to(Encoding::Blocks(block)), has_form, "{block}");
        if has_form {
            with_form!(block, F => {
                let geometry = (block.block_bytes() as usize, block.block_elements() as usize);
                assert_eq!((F::BYTES, F::ELEMENTS), geometry);
            }, {});
        }
        assert!(!Activations::Exact.applies_to(Encoding::Blocks(block)));
    }
    assert!(!Activations::Q8.applies_to(Encoding::Plain(DType::F32)));
}

/// A row of x that is 127 in one column and 0 elsewhere is exact in bytes: the product is that column of W.
#[test]
fn each_column_is_multiplied_with_its_own_weight() {
    for block in BlockType::ALL.into_iter().filter(|b| Activations::Q8.applies_to(Encoding::Blocks(*b))) {
        let (n, blocks) = (37, 2);
        let k = blocks * block.block_elements() as usize;
        let (w, values) = weight(block, n, blocks);
        let mut x = vec![0f32; k * k];
        (0..k).for_each(|i| x[i * k + i] = 127.0);
        let x: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
        for isa in ISAS.into_iter().filter_map(|kind| Isa::new(kind).ok()) {
            let mut packed = vec![0x55; scratch_bytes(k, k)];
            pack(isa, block, (&x, k, k, DType::F32), &mut packed, None).unwrap();
            let args = LinearArgs {
                packed: &packed,
                m: k,
                k,
                w: &w,
                w_encoding: Encoding::Blocks(block),
                scales: None,
                n,
                bias: None,
                ldy: n,
                n0: 0,
                act: DType::F32,
            };
            let mut y = vec![0x55; k * n * 4];
            linear(isa, block, &args, &mut y, None).unwrap();
            for (i, y) in y.as_chunks::<4>().0.iter().enumerate() {
                let (column, row) = (i / n, i % n);
                let (is, expected) = (f32::from_le_bytes(*y), 127.0 * values[row * k + column]);
                // A least and a scaled quant may nearly cancel out.
                let parts = values[row * k..][..k].iter().fold(0f32, |most, v| most.max(v.abs()));
                assert!(
                    (is - expected).abs() <= 2e-6 * 127.0 * parts + 1e-6 * expected.abs(),
                    "{isa} {block}: row {row}, column {column}: {is} for {expected}"
                );
            }
        }
    }
}
