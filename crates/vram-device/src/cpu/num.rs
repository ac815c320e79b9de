//! Elements as stored bytes, and as the `f32` that arithmetic uses.
//!
//! All conversions are branch-free, so that loops over them vectorise.

use vram_types::{DType, Encoding};

use super::error::KernelError;

/// A storage type.
pub(crate) trait Elem: Copy + Send + Sync + 'static {
    /// Its bytes.
    type Raw: Copy;
    const BYTES: usize;
    const DTYPE: DType;
    /// The whole elements of a byte slice of any alignment.
    fn slice(bytes: &[u8]) -> &[Self::Raw];
    /// The value; exact.
    fn get(raw: Self::Raw) -> f32;
}

/// A compute type, which results can be rounded to, to nearest even.
pub(crate) trait Act: Elem {
    fn slice_mut(bytes: &mut [u8]) -> &mut [Self::Raw];
    fn put(value: f32) -> Self::Raw;
    /// The value after rounding to this type.
    fn round(value: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(crate) struct F32;
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
#[derive(Clone, Copy)]
pub(crate) struct F16;
#[derive(Clone, Copy)]
pub(crate) struct E4m3;
#[derive(Clone, Copy)]
pub(crate) struct E5m2;

macro_rules! elem {
    ($t:ty, $n:literal, $dtype:ident, |$raw:ident| $get:expr) => {
        impl Elem for $t {
            type Raw = [u8; $n];
            const BYTES: usize = $n;
            const DTYPE: DType = DType::$dtype;
            #[inline(always)]
            fn slice(bytes: &[u8]) -> &[[u8; $n]] {
                bytes.as_chunks().0
            }
            #[inline(always)]
            fn get($raw: [u8; $n]) -> f32 {
                $get
            }
        }
    };
}

macro_rules! act {
    ($t:ty, $n:literal, |$value:ident| $put:expr) => {
        impl Act for $t {
            #[inline(always)]
            fn slice_mut(bytes: &mut [u8]) -> &mut [[u8; $n]] {
                bytes.as_chunks_mut().0
            }
            #[inline(always)]
            fn put($value: f32) -> [u8; $n] {
                $put
            }
            #[inline(always)]
            fn round(value: f32) -> f32 {
                Self::get(Self::put(value))
            }
        }
    };
}

elem!(F32, 4, F32, |raw| f32::from_le_bytes(raw));
act!(F32, 4, |value| value.to_le_bytes());
elem!(Bf16, 2, BF16, |raw| f32::from_bits(u32::from(u16::from_le_bytes(raw)) << 16));
act!(Bf16, 2, |value| bf16_bits(value).to_le_bytes());
elem!(F16, 2, F16, |raw| f16_to_f32(u16::from_le_bytes(raw)));
act!(F16, 2, |value| f16_bits(value).to_le_bytes());
elem!(E4m3, 1, F8_E4M3, |raw| e4m3_to_f32(raw[0]));
elem!(E5m2, 1, F8_E5M2, |raw| f16_to_f32(u16::from(raw[0]) << 8));

#[inline(always)]
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let nan = bits >> 16 | 0x40;
    (if value.is_nan() { nan } else { rounded }) as u16
}

#[inline(always)]
fn f16_to_f32(half: u16) -> f32 {
    let bits = u32::from(half);
    // After the shift the exponent is too small by 112; a multiplication corrects it, for subnormals too.
    let scaled = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = scaled.to_bits() | 0x7f80_0000;
    let magnitude = if bits & 0x7c00 == 0x7c00 { special } else { scaled.to_bits() };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

#[inline(always)]
fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = bits >> 16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    // Adding 0.5 leaves a subnormal result in the low bits of the mantissa, rounded by the addition.
    let half = f32::from_bits((127 - 1) << 23);
    let subnormal = (f32::from_bits(magnitude) + half).to_bits().wrapping_sub(half.to_bits());
    let odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(0xfff + odd) >> 13;
    let finite = if magnitude < 113 << 23 { subnormal } else { normal };
    (sign | if magnitude >= 143 << 23 { special } else { finite }) as u16
}

#[inline(always)]
fn e4m3_to_f32(byte: u8) -> f32 {
    let bits = u32::from(byte);
    let scaled = f32::from_bits((bits & 0x7f) << 20) * f32::from_bits((127 + 120) << 23);
    let magnitude = if bits & 0x7f == 0x7f { 0x7fc0_0000 } else { scaled.to_bits() };
    f32::from_bits(magnitude | (bits & 0x80) << 24)
}

/// Bytes of an element of a compute dtype.
pub(crate) fn act_bytes(what: &'static str, dtype: DType) -> Result<usize, KernelError> {
    match dtype {
        DType::F32 => Ok(4),
        DType::BF16 | DType::F16 => Ok(2),
        _ => Err(KernelError::DType { what, dtype }),
    }
}

/// Bytes of an element of a dtype that weights may be stored in.
pub(crate) fn weight_bytes(what: &'static str, dtype: DType) -> Result<usize, KernelError> {
    match dtype {
        DType::F8_E4M3 | DType::F8_E5M2 => Ok(1),
        _ => act_bytes(what, dtype),
    }
}

/// Bytes of a row of `elements` weights.
pub(crate) fn row_bytes(
    what: &'static str,
    encoding: Encoding,
    elements: usize,
) -> Result<usize, KernelError> {
    match encoding {
        Encoding::Plain(dtype) | Encoding::Scaled(dtype) => {
            Ok(elements.saturating_mul(weight_bytes(what, dtype)?))
        }
        Encoding::Blocks(_) => match encoding.row_bytes(elements as u64) {
            Some(bytes) => Ok(usize::try_from(bytes).unwrap_or(usize::MAX)),
            None => Err(KernelError::Shape { what: "rows of quantised weights are not whole blocks" }),
        },
        encoding => Err(KernelError::Encoding { what, encoding }),
    }
}

/// `with_act!(dtype, A => expression)`: the expression with `A` bound to the compute type; the dtype was
/// checked.
macro_rules! with_act {
    ($dtype:expr, $a:ident => $body:expr) => {
        match $dtype {
            vram_types::DType::F32 => {
                type $a = $crate::cpu::num::F32;
                $body
            }
            vram_types::DType::BF16 => {
                type $a = $crate::cpu::num::Bf16;
                $body
            }
            _ => {
                type $a = $crate::cpu::num::F16;
                $body
            }
        }
    };
}

/// Like `with_act!`, for storage types.
macro_rules! with_weight {
    ($dtype:expr, $w:ident => $body:expr) => {
        match $dtype {
            vram_types::DType::F8_E4M3 => {
                type $w = $crate::cpu::num::E4m3;
                $body
            }
            vram_types::DType::F8_E5M2 => {
                type $w = $crate::cpu::num::E5m2;
                $body
            }
            other => $crate::cpu::num::with_act!(other, $w => $body),
        }
    };
}

pub(crate) use {with_act, with_weight};
