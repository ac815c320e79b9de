// The common prefix of all programs: formats by their bits, and tensors at any address. There are no headers,
// so NVRTC alone is enough, and a format means the same on every card. ACT is the dtype of activations, by
// the numbers below.

// Each program uses only some of these functions.
#pragma nv_diag_suppress 177

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define F32 0u
#define BF16 1u
#define F16 2u
#define F8_E4M3 3u
#define F8_E5M2 4u
#define F8_E4M3FNUZ 5u
#define F8_E5M2FNUZ 6u
#define F8_E8M0 7u

// Threads of a block.
#define THREADS 256u

#define DEVICE static __device__ __forceinline__
#define APART static __device__ __noinline__
#define UNROLL _Pragma("unroll")
#define KERNEL extern "C" __global__ void

DEVICE float bf16_value(u32 bits) { return __uint_as_float(bits << 16); }

DEVICE u32 bf16_bits(float x) {
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits | 0x00400000u) >> 16;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

DEVICE float f16_value(u32 bits) {
    u32 mag = bits & 0x7fffu;
    u32 sign = (bits & 0x8000u) << 16;
    if (mag > 0x7c00u) return __uint_as_float(0x7fc00000u | (mag << 13) | sign);
    if (mag == 0x7c00u) return __uint_as_float(0x7f800000u | sign);
    if (mag < 0x400u) return __uint_as_float(__float_as_uint((float)mag * 5.9604644775390625e-8f) | sign);
    return __uint_as_float(((mag << 13) + 0x38000000u) | sign);
}

DEVICE u32 f16_bits(float x) {
    u32 bits = __float_as_uint(x);
    u32 sign = (bits >> 16) & 0x8000u;
    u32 mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u) return sign | 0x7e00u | ((mag >> 13) & 0x3ffu);
    if (mag >= 0x38800000u) {
        // In 64 bits, because the largest values would overflow on the way.
        u64 rounded = ((u64)mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13;
        return sign | (rounded < 0x7c00u ? (u32)rounded : 0x7c00u);
    }
    u32 drop = 126u - (mag >> 23);
    if (drop > 25u) return sign;
    u32 digits = (mag & 0x7fffffu) | 0x800000u;
    u32 kept = digits >> drop;
    u32 rest = digits & ((1u << drop) - 1u);
    u32 half = 1u << (drop - 1u);
    return sign | (kept + (rest > half || (rest == half && (kept & 1u)) ? 1u : 0u));
}

// A finite 8-bit float with `mantissa` bits of mantissa.
DEVICE float eight(u32 bits, u32 mantissa, u32 bias) {
    u32 mag = bits & 0x7fu;
    u32 sign = (bits & 0x80u) << 24;
    if (mag < (1u << mantissa)) {
        // 2^(1 - bias - mantissa) is the smallest subnormal.
        float unit = __uint_as_float((128u - bias - mantissa) << 23);
        return __uint_as_float(__float_as_uint((float)mag * unit) | sign);
    }
    return __uint_as_float(((mag << (23u - mantissa)) + ((127u - bias) << 23)) | sign);
}

DEVICE float e4m3_value(u32 bits) {
    if ((bits & 0x7fu) == 0x7fu) return __uint_as_float(0x7fc00000u | ((bits & 0x80u) << 24));
    return eight(bits, 3u, 7u);
}

DEVICE float fnuz_value(u32 bits, u32 mantissa, u32 bias) {
    return bits == 0x80u ? __uint_as_float(0x7fc00000u) : eight(bits, mantissa, bias);
}

DEVICE float e8m0_value(u32 bits) {
    if (bits == 0xffu) return __uint_as_float(0x7fc00000u);
    return __uint_as_float(bits == 0u ? 0x00400000u : bits << 23);
}

DEVICE u32 size_of(u32 dtype) { return dtype == F32 ? 4u : dtype <= F16 ? 2u : 1u; }

// The value of these bits in a dtype.
DEVICE float value(u32 dtype, u32 bits) {
    switch (dtype) {
        case F32: return __uint_as_float(bits);
        case BF16: return bf16_value(bits);
        case F16: return f16_value(bits);
        case F8_E4M3: return e4m3_value(bits);
        case F8_E5M2: return f16_value(bits << 8);
        case F8_E4M3FNUZ: return fnuz_value(bits, 3u, 8u);
        case F8_E5M2FNUZ: return fnuz_value(bits, 2u, 16u);
        default: return e8m0_value(bits);
    }
}

// Bits of an element at any address, byte by byte.
APART u32 gathered(const u8 *p, u32 size) {
    u32 bits = 0;
    for (u32 i = 0; i < size; i++) bits |= (u32)p[i] << (8u * i);
    return bits;
}

// Element i of a tensor at any address.
DEVICE float element(const u8 *at, u32 dtype, u64 i) {
    u32 size = size_of(dtype);
    const u8 *p = at + i * size;
    if (size == 1u) return value(dtype, *p);
    if (((u64)p & (size - 1u)) != 0) return value(dtype, gathered(p, size));
    return value(dtype, size == 4u ? *(const u32 *)p : (u32) * (const u16 *)p);
}

// The same for a dtype known only at run time: compiled once per program, however often it is used.
APART float load(const u8 *at, u32 dtype, u64 i) { return element(at, dtype, i); }

#if ACT == 0
typedef float act;
DEVICE float act_value(act x) { return x; }
DEVICE act act_bits(float x) { return x; }
#elif ACT == 1
typedef u16 act;
DEVICE float act_value(act x) { return bf16_value(x); }
DEVICE act act_bits(float x) { return (act)bf16_bits(x); }
#else
typedef u16 act;
DEVICE float act_value(act x) { return f16_value(x); }
DEVICE act act_bits(float x) { return (act)f16_bits(x); }
#endif

// A value rounded to the dtype of activations.
DEVICE float rounded(float x) { return act_value(act_bits(x)); }
