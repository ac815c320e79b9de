// Formats narrower than f32, computed from their bits, because hardware differs in subnormals and rounding.

fn f32_value(bits: u32) -> f32 { return bitcast<f32>(bits); }
fn f32_bits(x: f32) -> u32 { return bitcast<u32>(x); }

fn bf16_value(bits: u32) -> f32 { return bitcast<f32>(bits << 16u); }

fn bf16_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits | 0x00400000u) >> 16u; }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn f16_value(bits: u32) -> f32 {
    let mag = bits & 0x7fffu;
    let sign = (bits & 0x8000u) << 16u;
    if (mag > 0x7c00u) { return bitcast<f32>(0x7fc00000u | (mag << 13u) | sign); }
    if (mag == 0x7c00u) { return bitcast<f32>(0x7f800000u | sign); }
    if (mag < 0x400u) { return bitcast<f32>(bitcast<u32>(f32(mag) * 5.9604644775390625e-8) | sign); }
    return bitcast<f32>(((mag << 13u) + 0x38000000u) | sign);
}

fn f16_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u) { return sign | 0x7e00u | ((mag >> 13u) & 0x3ffu); }
    if (mag >= 0x38800000u) {
        return sign | min((mag - 0x38000000u + 0xfffu + ((mag >> 13u) & 1u)) >> 13u, 0x7c00u);
    }
    let drop = 126u - (mag >> 23u);
    if (drop > 25u) { return sign; }
    let digits = (mag & 0x7fffffu) | 0x800000u;
    let kept = digits >> drop;
    let rest = digits & ((1u << drop) - 1u);
    let half = 1u << (drop - 1u);
    let up = rest > half || (rest == half && (kept & 1u) == 1u);
    return sign | (kept + select(0u, 1u, up));
}

fn eight(bits: u32, mantissa: u32, bias: u32) -> f32 {
    let mag = bits & 0x7fu;
    let sign = (bits & 0x80u) << 24u;
    if (mag < (1u << mantissa)) {
        // 2^(1 - bias - mantissa) is the smallest subnormal.
        return bitcast<f32>(bitcast<u32>(f32(mag) * bitcast<f32>((128u - bias - mantissa) << 23u)) | sign);
    }
    return bitcast<f32>(((mag << (23u - mantissa)) + ((127u - bias) << 23u)) | sign);
}

fn e4m3_value(word: u32) -> f32 {
    if ((word & 0x7fu) == 0x7fu) { return bitcast<f32>(0x7fc00000u | ((word & 0x80u) << 24u)); }
    return eight(word & 0xffu, 3u, 7u);
}

fn e5m2_value(word: u32) -> f32 { return f16_value((word & 0xffu) << 8u); }

fn e4m3fnuz_value(word: u32) -> f32 {
    if ((word & 0xffu) == 0x80u) { return bitcast<f32>(0x7fc00000u); }
    return eight(word & 0xffu, 3u, 8u);
}

fn e5m2fnuz_value(word: u32) -> f32 {
    if ((word & 0xffu) == 0x80u) { return bitcast<f32>(0x7fc00000u); }
    return eight(word & 0xffu, 2u, 16u);
}

fn e8m0_value(word: u32) -> f32 {
    let exponent = word & 0xffu;
    if (exponent == 0xffu) { return bitcast<f32>(0x7fc00000u); }
    return bitcast<f32>(select(exponent << 23u, 0x00400000u, exponent == 0u));
}

// exp(high + low) to about one unit in the last place; the CPU's algorithm, because adapters' own differ.
fn exp_of(high_in: f32, low: f32) -> f32 {
    // Comparisons that let a NaN through.
    let below = select(high_in, 89.0, high_in > 89.0);
    let high = select(below, -120.0, below < -120.0);
    let sum = high + low;
    let n = round(sum * 1.44269504);
    let r = fma(n, 2.1219444e-4, fma(n, -0.693359375, high) + low);
    var e = fma(r, 1.984127e-4, 1.3888889e-3);
    e = fma(e, r, 8.333334e-3);
    e = fma(e, r, 4.1666668e-2);
    e = fma(e, r, 1.6666667e-1);
    e = fma(e, r, 0.5);
    e = fma(e, r, 1.0);
    e = fma(e, r, 1.0);
    let whole = i32(n);
    let half = whole >> 1u;
    let y = e * bitcast<f32>(u32(half + 127) << 23u) * bitcast<f32>(u32(whole - half + 127) << 23u);
    return select(y, 0.0, sum < -87.3);
}

// x (1 + erf(x / sqrt 2)) / 2, by the Chebyshev fit of Numerical Recipes (erfcc).
fn gelu(v: f32) -> f32 {
    let x = min(abs(v), 15.0);
    let t = 1.0 / (1.0 + x * 0.35355339);
    var e = 0.17087277;
    e = fma(e, t, -0.82215223);
    e = fma(e, t, 1.48851587);
    e = fma(e, t, -1.13520398);
    e = fma(e, t, 0.27886807);
    e = fma(e, t, -0.18628806);
    e = fma(e, t, 0.09678418);
    e = fma(e, t, 0.37409196);
    e = fma(e, t, 1.00002368);
    e = fma(e, t, -1.26551223);
    // x^2 in two parts, the first exact: near 100 a single f32 has an error of 4e-6.
    let high = bitcast<f32>(bitcast<u32>(x) & 0xfffff000u);
    let low = (x - high) * (x + high);
    let tail = 0.5 * t * exp_of(-0.5 * high * high, e - 0.5 * low);
    return v * select(1.0 - tail, tail, v < 0.0);
}

fn sigmoid(v: f32) -> f32 { return 1.0 / (1.0 + exp_of(-v, 0.0)); }

fn silu(v: f32) -> f32 { return v / (1.0 + exp_of(-v, 0.0)); }

// (1 + tanh u) / 2 is sigmoid(2 u), which keeps its digits where 1 + tanh has lost them.
fn gelu_tanh(v: f32) -> f32 {
    let x = clamp(v, -1e6, 1e6);
    return v / (1.0 + exp_of(-1.59576912 * x * fma(0.044715 * x, x, 1.0), 0.0));
}

fn gelu_sigmoid(v: f32) -> f32 { return v / (1.0 + exp_of(-1.702 * v, 0.0)); }

// Near zero by the polynomial of Cephes (tanhf), as on the CPU; adapters' own tanh overflows.
fn tanh_of(v: f32) -> f32 {
    let x = abs(v);
    let far = 1.0 - 2.0 / (1.0 + exp_of(2.0 * x, 0.0));
    let z = x * x;
    var e = fma(z, -5.70498872745e-3, 2.06390887954e-2);
    e = fma(e, z, -5.37397155531e-2);
    e = fma(e, z, 1.33314422036e-1);
    e = fma(e, z, -3.33332819422e-1);
    let near = fma(e * z, x, x);
    let y = bitcast<u32>(select(far, near, x < 0.625));
    return bitcast<f32>(y | (bitcast<u32>(v) & 0x80000000u));
}
