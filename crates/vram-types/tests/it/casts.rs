//! One answer for every path, alignment and length; typed errors for what cannot be cast.

use proptest::prelude::*;
use vram_types::cast::{Isa, can_cast, cast, cast_serial, cast_serial_on};
use vram_types::{DType, TypeError};

const FLOATS: [DType; 9] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8_E4M3,
    DType::F8_E5M2,
    DType::F8_E4M3FNUZ,
    DType::F8_E5M2FNUZ,
    DType::F8_E8M0,
];

pub(crate) fn cast_on(isa: Isa, src: &[u8], from: DType, to: DType) -> Vec<u8> {
    let elements = src.len() as u64 / u64::from(from.bits() / 8);
    let mut dst = vec![0xa5; to.bytes_of(elements).unwrap() as usize];
    cast_serial_on(isa, src, from, &mut dst, to).unwrap();
    dst
}

/// Equal bits, any NaN equal to any other.
pub(crate) fn assert_same(ours: &[u8], theirs: &[u8], d: DType, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let n = d.bits() as usize / 8;
    for (i, (a, b)) in ours.chunks_exact(n).zip(theirs.chunks_exact(n)).enumerate() {
        assert!(a == b || is_nan(a, d) && is_nan(b, d), "{what}: element {i}: {a:x?} where {b:x?} is right");
    }
}

/// Says what a NaN is from the formats' definitions, not from our decoders.
fn is_nan(bytes: &[u8], d: DType) -> bool {
    let x = bytes.iter().rev().fold(0u64, |x, &b| x << 8 | u64::from(b));
    let abs = x & !(1 << (d.bits() - 1));
    match d {
        DType::F64 => f64::from_bits(x).is_nan(),
        DType::F32 => abs > 0x7f80_0000,
        DType::F16 => abs > 0x7c00,
        DType::BF16 => abs > 0x7f80,
        DType::F8_E4M3 => abs == 0x7f,
        DType::F8_E5M2 => abs > 0x7c,
        DType::F8_E4M3FNUZ | DType::F8_E5M2FNUZ => x == 0x80,
        DType::F8_E8M0 => x == 0xff,
        _ => false,
    }
}

fn float() -> impl Strategy<Value = DType> {
    prop::sample::select(&FLOATS[..])
}

proptest! {
    #[test]
    fn every_path_gives_the_same_bits_on_unaligned_slices(
        from in float(),
        to in float(),
        bytes in prop::collection::vec(any::<u8>(), 8..1500),
        shift in 0usize..8,
    ) {
        let element = from.bits() as usize / 8;
        let elements = (bytes.len() - shift) / element;
        let src = &bytes[shift..shift + elements * element];
        let portable = cast_on(Isa::PORTABLE, src, from, to);
        for isa in Isa::available() {
            // Destination unaligned as well, with guards on both sides.
            let mut dst = vec![0x5a; portable.len() + 16];
            cast_serial_on(isa, src, from, &mut dst[shift..shift + portable.len()], to).unwrap();
            prop_assert_eq!(&dst[shift..shift + portable.len()], &portable[..], "{}", isa.name());
            prop_assert!(dst[..shift].iter().chain(&dst[shift + portable.len()..]).all(|&b| b == 0x5a));
        }
        // One element at a time: no vector, no block.
        let size = to.bits() as usize / 8;
        for (s, d) in src.chunks(element).zip(portable.chunks(size)) {
            prop_assert_eq!(&cast_on(Isa::best(), s, from, to)[..], d);
        }
    }

    #[test]
    fn a_wider_type_and_back_is_the_identity(bits in any::<u16>(), wide in prop::sample::select(&[DType::F32, DType::F64][..])) {
        for d in FLOATS.into_iter().filter(|d| d.bits() < 32) {
            let src = &bits.to_le_bytes()[..d.bits() as usize / 8];
            let there = cast_on(Isa::best(), src, d, wide);
            assert_same(&cast_on(Isa::best(), &there, wide, d), src, d, "there and back");
        }
    }
}

#[test]
fn parallel_equals_serial() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    // An odd number of elements, several tasks, random-looking bits.
    let bytes: Vec<u8> =
        (0u64..1_100_001 * 8).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as u8).collect();
    for from in FLOATS {
        for to in FLOATS {
            let elements = 1_100_001u64;
            let src = &bytes[1..1 + from.bytes_of(elements - 1).unwrap() as usize];
            let mut serial = vec![0; to.bytes_of(elements - 1).unwrap() as usize];
            let mut parallel = serial.clone();
            cast_serial(src, from, &mut serial, to).unwrap();
            pool.install(|| cast(src, from, &mut parallel, to)).unwrap();
            assert!(serial == parallel, "{from} to {to}");
        }
    }
}

#[test]
fn identity_copies_every_dtype() {
    for d in DType::ALL {
        let src: Vec<u8> = (0..48).collect();
        let mut dst = [0; 48];
        cast(&src, d, &mut dst, d).unwrap();
        assert_eq!(src, dst, "{d}");
        assert!(cast(&[], d, &mut [], d).is_ok());
    }
}

#[test]
fn what_cannot_be_cast_is_an_error() {
    let check = |src: usize, from, dst: usize, to| {
        let src = vec![0; src];
        let mut out = vec![7; dst];
        let e = cast(&src, from, &mut out, to).unwrap_err();
        assert_eq!(cast_serial(&src, from, &mut out, to).unwrap_err(), e);
        assert!(out.iter().all(|&b| b == 7), "{e}");
        e
    };
    let (i64, f32, bf16, f6) = (DType::I64, DType::F32, DType::BF16, DType::F6_E2M3);
    assert_eq!(check(8, i64, 4, f32), TypeError::NoCast { from: i64, to: f32 });
    assert_eq!(check(3, f6, 4, bf16), TypeError::NoCast { from: f6, to: bf16 });
    assert!(matches!(check(7, f32, 2, bf16), TypeError::Length { expected: 8, actual: 7, .. }));
    assert!(matches!(check(8, f32, 5, bf16), TypeError::Length { expected: 4, actual: 5, .. }));
    assert!(matches!(check(4, f6, 4, f6), TypeError::Length { expected: 6, actual: 4, .. }));
    assert!(matches!(check(3, f6, 6, f6), TypeError::Length { expected: 3, actual: 6, .. }));
    for from in DType::ALL {
        for to in DType::ALL {
            let floats = FLOATS.contains(&from) && FLOATS.contains(&to);
            assert_eq!(can_cast(from, to), floats || from == to, "{from} to {to}");
        }
    }
}
