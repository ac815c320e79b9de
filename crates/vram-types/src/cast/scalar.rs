//! One element at a time, without a branch, so that loops over these functions become vector code.
//!
//! `encode` and `decode` are written once for every format of a sign, exponent and mantissa narrower than `f32`.

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;
const QUIET_NAN: u32 = 0x7fc0_0000;

/// `BF16` bits to `f32`; exact.
#[inline(always)]
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// `f32` to `BF16` bits.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    // Cannot overflow into the sign: the largest that is not a NaN is an infinity, whose lower bits are zero.
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let nan = bits | 0x0040_0000;
    (if bits & !SIGN > INFINITY { nan } else { rounded } >> 16) as u16
}

/// `F16` bits to `f32`; exact, signalling NaNs become quiet.
#[inline(always)]
pub fn f16_to_f32(x: u16) -> f32 {
    let x = u32::from(x);
    let mag = x & 0x7fff;
    let special = INFINITY | (mag & 0x3ff) << 13 | if mag > 0x7c00 { 0x0040_0000 } else { 0 };
    let value = if mag >= 0x7c00 { special } else { decode::<10, 15>(mag) };
    f32::from_bits(value | (x & 0x8000) << 16)
}

/// `f32` to `F16` bits.
#[inline(always)]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let abs = bits & !SIGN;
    let finite = encode::<10, 15>(abs).min(0x7c00);
    let nan = 0x7e00 | (abs >> 13) & 0x3ff;
    (if abs > INFINITY { nan } else { finite } | (bits & SIGN) >> 16) as u16
}

/// `F8_E4M3` bits to `f32`; exact.
#[inline(always)]
pub fn f8_e4m3_to_f32(x: u8) -> f32 {
    let x = u32::from(x);
    let mag = x & 0x7f;
    let value = if mag == 0x7f { QUIET_NAN } else { decode::<3, 7>(mag) };
    f32::from_bits(value | (x & 0x80) << 24)
}

/// `f32` to `F8_E4M3` bits; everything beyond 448 becomes 448, infinity too.
#[inline(always)]
pub fn f32_to_f8_e4m3(x: f32) -> u8 {
    let bits = x.to_bits();
    let abs = bits & !SIGN;
    let finite = encode::<3, 7>(abs).min(0x7e);
    (if abs > INFINITY { 0x7f } else { finite } | (bits & SIGN) >> 24) as u8
}

/// `F8_E5M2` bits to `f32`; exact.
#[inline(always)]
pub fn f8_e5m2_to_f32(x: u8) -> f32 {
    let x = u32::from(x);
    let mag = x & 0x7f;
    let special = INFINITY | (mag & 3) << 21 | if mag > 0x7c { 0x0040_0000 } else { 0 };
    let value = if mag >= 0x7c { special } else { decode::<2, 15>(mag) };
    f32::from_bits(value | (x & 0x80) << 24)
}

/// `f32` to `F8_E5M2` bits.
#[inline(always)]
pub fn f32_to_f8_e5m2(x: f32) -> u8 {
    let bits = x.to_bits();
    let abs = bits & !SIGN;
    let finite = encode::<2, 15>(abs).min(0x7c);
    (if abs > INFINITY { 0x7f } else { finite } | (bits & SIGN) >> 24) as u8
}

/// `F8_E4M3FNUZ` bits to `f32`; exact.
#[inline(always)]
pub fn f8_e4m3fnuz_to_f32(x: u8) -> f32 {
    f32::from_bits(decode_fnuz::<3, 8>(u32::from(x)))
}

/// `f32` to `F8_E4M3FNUZ` bits; what rounds beyond 240 becomes NaN.
#[inline(always)]
pub fn f32_to_f8_e4m3fnuz(x: f32) -> u8 {
    encode_fnuz::<3, 8>(x.to_bits())
}

/// `F8_E5M2FNUZ` bits to `f32`; exact.
#[inline(always)]
pub fn f8_e5m2fnuz_to_f32(x: u8) -> f32 {
    f32::from_bits(decode_fnuz::<2, 16>(u32::from(x)))
}

/// `f32` to `F8_E5M2FNUZ` bits; what rounds beyond 57344 becomes NaN.
#[inline(always)]
pub fn f32_to_f8_e5m2fnuz(x: f32) -> u8 {
    encode_fnuz::<2, 16>(x.to_bits())
}

/// `F8_E8M0` bits to `f32`: two to the power of `x - 127`, NaN for 255.
#[inline(always)]
pub fn f8_e8m0_to_f32(x: u8) -> f32 {
    let x = u32::from(x);
    // 2^-127 is a subnormal of f32.
    let value = if x == 0 { 0x0040_0000 } else { x << 23 };
    f32::from_bits(if x == 0xff { QUIET_NAN } else { value })
}

/// `f32` to `F8_E8M0` bits: the exponent, rounded up from a mantissa of one half on. The sign is dropped.
///
/// PyTorch's tie rule takes the hidden bit for the last place: a normal number half way goes up, a subnormal one down.
#[inline(always)]
pub fn f32_to_f8_e8m0(x: f32) -> u8 {
    let abs = x.to_bits() & !SIGN;
    let exponent = abs >> 23;
    let half = if exponent == 0 { 0x0040_0001 } else { 0x0040_0000 };
    let up = u32::from(abs & 0x007f_ffff >= half && exponent != 0xff);
    (exponent + up) as u8
}

/// `F8_E4M3` bits to `BF16` bits, as through `f32`.
#[inline(always)]
pub fn f8_e4m3_to_bf16(x: u8) -> u16 {
    widen::<3, 7, 7, 127>(x, 0x7f, 0x7fc0)
}

/// `F8_E4M3` bits to `F16` bits, as through `f32`.
#[inline(always)]
pub fn f8_e4m3_to_f16(x: u8) -> u16 {
    widen::<3, 7, 10, 15>(x, 0x7f, 0x7e00)
}

/// `F8_E5M2` bits to `BF16` bits, as through `f32`.
#[inline(always)]
pub fn f8_e5m2_to_bf16(x: u8) -> u16 {
    let mag = u16::from(x & 0x7f);
    let special = 0x7f80 | (mag & 3) << 5 | if mag > 0x7c { 0x40 } else { 0 };
    let sign = u16::from(x & 0x80) << 8;
    if mag >= 0x7c { special | sign } else { widen::<2, 15, 7, 127>(x, 0x7f, 0) }
}

/// `F8_E5M2` bits to `F16` bits, as through `f32`: the former is the latter's upper half.
#[inline(always)]
pub fn f8_e5m2_to_f16(x: u8) -> u16 {
    u16::from(x) << 8 | if x & 0x7f > 0x7c { 0x200 } else { 0 }
}

/// Bits of the `f32` that magnitude `mag` stands for, infinities and NaNs aside.
#[inline(always)]
fn decode<const MANTISSA: u32, const BIAS: u32>(mag: u32) -> u32 {
    let normal = (mag << (23 - MANTISSA)) + ((127 - BIAS) << 23);
    // A subnormal is read as if it had a hidden bit, one exponent higher; the subtraction takes it off and normalises.
    let hidden = (127 - BIAS + 1) << 23;
    let subnormal = f32::from_bits(normal + (1 << 23)) - f32::from_bits(hidden);
    if mag < 1 << MANTISSA { subnormal.to_bits() } else { normal }
}

/// The magnitude nearest to the `f32` of bits `abs`, which has no sign; exceeds the format where that overflows.
#[inline(always)]
fn encode<const MANTISSA: u32, const BIAS: u32>(abs: u32) -> u32 {
    let drop = 23 - MANTISSA;
    let rebias = (127 - BIAS) << 23;
    let to_even = (1 << (drop - 1)) - 1 + ((abs >> drop) & 1);
    let normal = abs.wrapping_sub(rebias).wrapping_add(to_even) >> drop;
    // The last place of `magic` is the smallest subnormal, so the addition rounds as it must.
    let magic = (127 - BIAS + drop + 1) << 23;
    let subnormal = (f32::from_bits(abs) + f32::from_bits(magic)).to_bits().wrapping_sub(magic);
    if abs < rebias + (1 << 23) { subnormal } else { normal }
}

/// [`decode`] with the one NaN where other formats have negative zero.
#[inline(always)]
fn decode_fnuz<const MANTISSA: u32, const BIAS: u32>(x: u32) -> u32 {
    let value = decode::<MANTISSA, BIAS>(x & 0x7f) | (x & 0x80) << 24;
    if x == 0x80 { QUIET_NAN } else { value }
}

/// [`encode`] with a NaN for everything that does not fit, and one zero.
#[inline(always)]
fn encode_fnuz<const MANTISSA: u32, const BIAS: u32>(bits: u32) -> u8 {
    let abs = bits & !SIGN;
    let mag = encode::<MANTISSA, BIAS>(abs);
    let signed = if mag == 0 { 0 } else { mag | (bits & SIGN) >> 24 };
    (if abs >= INFINITY || mag > 0x7f { 0x80 } else { signed }) as u8
}

/// A byte of at most 3 bits of mantissa in a 16-bit format in which all of its values are normal. Stays within 16 bits,
/// so that a vector holds twice as many as by way of `f32`.
#[inline(always)]
fn widen<const MANTISSA: u16, const BIAS: u16, const TO_MANTISSA: u16, const TO_BIAS: u16>(
    x: u8,
    nan_mag: u16,
    nan: u16,
) -> u16 {
    let mag = u16::from(x & 0x7f);
    let shift = TO_MANTISSA - MANTISSA;
    let rebias = (TO_BIAS - BIAS) << TO_MANTISSA;
    // A subnormal loses its leading bit to the exponent, which is lower by as many as the bit is below the hidden one's
    // place: by 1 for the highest bit of mantissa, and so on.
    let leading =
        |below: u16| (mag << (shift + below)).wrapping_add(rebias).wrapping_sub(below << TO_MANTISSA);
    let mut value = (mag << shift) + rebias;
    let mut below = 1;
    while below <= MANTISSA {
        value = if mag < 1 << (MANTISSA + 1 - below) { leading(below) } else { value };
        below += 1;
    }
    let value = if mag == 0 { 0 } else { value };
    (if mag == nan_mag { nan } else { value }) | u16::from(x & 0x80) << 8
}
