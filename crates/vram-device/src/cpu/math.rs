//! Branch-free functions of one `f32`, so that loops over them vectorise.

/// `a * b + c`, with one rounding if that is one instruction.
#[inline(always)]
fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `exp(high + low)` to about one unit in the last place, for `low` small enough to be added to a remainder
/// (a few units). Zero below 2^-126.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(high: f32, low: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts. The first ends in zeros, so its product with a small whole number is exact.
    #[allow(clippy::excessive_precision)] // exact as written
    const LN2_HIGH: f32 = 0.693_359_375;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons that let a NaN through.
    let high = if high > 89.0 { 89.0 } else { high };
    let high = if high < -120.0 { -120.0 } else { high };
    let sum = high + low;
    let shifted = fma::<FMA>(sum, std::f32::consts::LOG2_E, ROUND);
    let whole = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -LN2_LOW, fma::<FMA>(n, -LN2_HIGH, high) + low);
    // The Taylor series to r^7 is good to 1e-8 for |r| < 0.35.
    let mut p = fma::<FMA>(r, 1.984_127e-4, 1.388_888_9e-3);
    p = fma::<FMA>(p, r, 8.333_334e-3);
    p = fma::<FMA>(p, r, 4.166_666_8e-2);
    p = fma::<FMA>(p, r, 1.666_666_7e-1);
    p = fma::<FMA>(p, r, 0.5);
    p = fma::<FMA>(p, r, 1.0);
    p = fma::<FMA>(p, r, 1.0);
    // 2^n as two factors: n reaches 128, which has no exponent as a single factor.
    let half = whole >> 1;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(whole.wrapping_sub(half));
    if sum < -87.3 { 0.0 } else { y }
}

/// `x * (1 + erf(x / sqrt 2)) / 2`, relative error below 1e-6 wherever the result is a normal number.
#[inline(always)]
pub(crate) fn gelu<const FMA: bool>(x: f32) -> f32 {
    let tail = half_erfc::<FMA>(x.abs());
    // From the tail on both sides: 1 + erf would lose all digits for negative x.
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// `erfc(x / sqrt 2) / 2` for `x >= 0`, as `t exp(-x^2 / 2 + P(t))` with the Chebyshev fit of Numerical
/// Recipes (erfcc), whose relative error is below 1.2e-7 everywhere.
#[inline(always)]
#[allow(clippy::excessive_precision)] // the coefficients as they were published
fn half_erfc<const FMA: bool>(x: f32) -> f32 {
    // From here on the result is zero, and infinity would become a NaN below.
    let x = if x > 15.0 { 15.0 } else { x };
    let t = 1.0 / (1.0 + x * (0.5 * std::f32::consts::FRAC_1_SQRT_2));
    let mut p = 0.170_872_77f32;
    p = fma::<FMA>(p, t, -0.822_152_23);
    p = fma::<FMA>(p, t, 1.488_515_87);
    p = fma::<FMA>(p, t, -1.135_203_98);
    p = fma::<FMA>(p, t, 0.278_868_07);
    p = fma::<FMA>(p, t, -0.186_288_06);
    p = fma::<FMA>(p, t, 0.096_784_18);
    p = fma::<FMA>(p, t, 0.374_091_96);
    p = fma::<FMA>(p, t, 1.000_023_68);
    p = fma::<FMA>(p, t, -1.265_512_23);
    // x^2 in two parts, the first exact: near 100 a single f32 has an error of 4e-6.
    let high = f32::from_bits(x.to_bits() & 0xffff_f000);
    let low = (x - high) * (x + high);
    0.5 * t * exp::<FMA>(-0.5 * high * high, p - 0.5 * low)
}

/// `x / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x, 0.0))
}

/// `x / (1 + exp(-2 u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, which is `x (1 + tanh u) / 2`. The
/// relative error is below 1e-6 wherever the result is not within a factor of 100 of the smallest normal
/// number.
#[inline(always)]
pub(crate) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const TWICE_ROOT: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::SQRT_2;
    let wide = f64::from(x);
    gate::<FMA>(x, wide * (TWICE_ROOT + TWICE_ROOT * 0.044715 * (wide * wide)))
}

/// `x / (1 + exp(-1.702 x))`, as precise as [`gelu_tanh`].
#[inline(always)]
pub(crate) fn gelu_sigmoid<const FMA: bool>(x: f32) -> f32 {
    gate::<FMA>(x, 1.702 * f64::from(x))
}

/// `x / (1 + exp(-t))`. An f32 near 80 has an error of 4e-6, which `exp` would turn into a relative error, so
/// `t` is passed to it as a sum of two.
#[inline(always)]
fn gate<const FMA: bool>(x: f32, t: f64) -> f32 {
    // Comparisons that let a NaN through; without them infinity minus infinity would give one below.
    let t = if t > 200.0 { 200.0 } else { t };
    let t = if t < -200.0 { -200.0 } else { t };
    let high = -t as f32;
    x / (1.0 + exp::<FMA>(high, (-t - f64::from(high)) as f32))
}

/// `1 / (1 + exp(-x))`, relative error below 1e-6 wherever the result is a normal number.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x, 0.0))
}

/// `tanh(x)`, relative error below 1e-6.
#[inline(always)]
#[allow(clippy::excessive_precision)] // the coefficients as they were published
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let size = x.abs();
    let far = 1.0 - 2.0 / (1.0 + exp::<FMA>(2.0 * size, 0.0));
    // Near zero `far` has lost its digits; this odd polynomial is that of Cephes (`tanhf`).
    let z = size * size;
    let mut p = fma::<FMA>(z, -5.704_988_727_45e-3, 2.063_908_879_54e-2);
    p = fma::<FMA>(p, z, -5.373_971_555_31e-2);
    p = fma::<FMA>(p, z, 1.333_144_220_36e-1);
    p = fma::<FMA>(p, z, -3.333_328_194_22e-1);
    let near = fma::<FMA>(p * z, size, size);
    (if size < 0.625 { near } else { far }).copysign(x)
}
