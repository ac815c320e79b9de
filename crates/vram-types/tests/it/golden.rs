//! Casts against PyTorch's `.to(dtype)`, on every pattern of the reference file.

use safetensors::SafeTensors;
use vram_types::DType;
use vram_types::cast::{self, Isa};

use crate::casts::{assert_same, cast_on};

const FILE: &[u8] = include_bytes!("../golden/casts.safetensors");

fn dtype(name: &str) -> DType {
    name.parse().unwrap()
}

#[test]
fn every_pattern_of_the_reference_file() {
    let file = SafeTensors::deserialize(FILE).unwrap();
    let f32s = file.tensor("f32").unwrap().data().to_vec();
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let mut pairs = 0;
    for (name, expected) in file.tensors() {
        let Some((from, to)) = name.split_once("_to_") else {
            continue;
        };
        let (from, to) = (dtype(from), dtype(to));
        let src = match from.bits() {
            8 => &bytes,
            16 => &halves,
            _ => &f32s,
        };
        for isa in Isa::available() {
            assert_same(
                &cast_on(isa, src, from, to),
                expected.data(),
                to,
                &format!("{name} on {}", isa.name()),
            );
        }
        pairs += 1;
    }
    assert_eq!(pairs, 22);
}

#[test]
fn f64_rounds_through_f32_as_pytorch_does() {
    let file = SafeTensors::deserialize(FILE).unwrap();
    let samples = file.tensor("f32").unwrap();
    let wide: Vec<u8> = samples
        .data()
        .chunks_exact(4)
        .flat_map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap())).to_le_bytes())
        .collect();
    for to in ["bf16", "f16", "f8_e4m3", "f8_e5m2", "f8_e4m3fnuz", "f8_e5m2fnuz", "f8_e8m0"] {
        let expected = file.tensor(&format!("f32_to_{to}")).unwrap();
        let to = dtype(to);
        assert_same(&cast_on(Isa::best(), &wide, DType::F64, to), expected.data(), to, "f64");
    }

    // Just above the middle of two halves: rounding once would go up, through f32 it is a tie and goes to even.
    let x: f64 = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
    assert_eq!(cast_on(Isa::best(), &x.to_le_bytes(), DType::F64, DType::F16), 0x3c00u16.to_le_bytes());
}

#[test]
fn scalar_helpers_agree_with_half() {
    for bits in 0..=u16::MAX {
        let pairs = [
            (cast::bf16_to_f32(bits), half::bf16::from_bits(bits).to_f32()),
            (cast::f16_to_f32(bits), half::f16::from_bits(bits).to_f32()),
        ];
        for (ours, theirs) in pairs {
            assert!(ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(), "{bits:#x}");
        }
    }
    // Every f32 whose lower 12 bits are one of a few: all exponents, all ties into f16 and bf16.
    for high in 0..1u32 << 20 {
        for low in [0, 1, 0x800, 0xfff] {
            let x = f32::from_bits(high << 12 | low);
            if x.is_nan() {
                assert!(half::f16::from_bits(cast::f32_to_f16(x)).is_nan());
                assert!(half::bf16::from_bits(cast::f32_to_bf16(x)).is_nan());
                continue;
            }
            assert_eq!(cast::f32_to_f16(x), half::f16::from_f32(x).to_bits(), "{x:e}");
            assert_eq!(cast::f32_to_bf16(x), half::bf16::from_f32(x).to_bits(), "{x:e}");
        }
    }
}

/// Rounding to nearest, decided by comparing distances in f64 instead of by bits.
#[test]
fn fp8_encoders_take_the_nearest_value() {
    type Format = (fn(f32) -> u8, fn(u8) -> f32);
    let formats: [Format; 4] = [
        (cast::f32_to_f8_e4m3, cast::f8_e4m3_to_f32),
        (cast::f32_to_f8_e5m2, cast::f8_e5m2_to_f32),
        (cast::f32_to_f8_e4m3fnuz, cast::f8_e4m3fnuz_to_f32),
        (cast::f32_to_f8_e5m2fnuz, cast::f8_e5m2fnuz_to_f32),
    ];
    for (encode, decode) in formats {
        let values: Vec<f64> = (0..0x80).map(|b| f64::from(decode(b))).filter(|v| v.is_finite()).collect();
        let largest = *values.last().unwrap();
        for high in 0..0x7f80u32 << 2 {
            let x = f32::from_bits(high << 14 | 0x2aa);
            if f64::from(x) > largest {
                break;
            }
            let distance = |v: f64| (v - f64::from(x)).abs();
            let nearest = values.iter().map(|&v| distance(v)).fold(f64::INFINITY, f64::min);
            assert_eq!(distance(f64::from(decode(encode(x)))), nearest, "{x:e}");
            assert_eq!(decode(encode(-x)), -decode(encode(x)));
        }
    }
}

#[test]
fn the_short_way_from_fp8_to_16_bits_gives_the_bits_of_the_long_way() {
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    for from in [DType::F8_E4M3, DType::F8_E5M2] {
        for to in [DType::BF16, DType::F16] {
            let wide = cast_on(Isa::PORTABLE, &bytes, from, DType::F32);
            let expected = cast_on(Isa::PORTABLE, &wide, DType::F32, to);
            for isa in Isa::available() {
                assert_eq!(cast_on(isa, &bytes, from, to), expected, "{from} to {to} on {}", isa.name());
            }
        }
    }
}
