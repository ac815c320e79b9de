// The kernels around cublasLt's products: the last step of a product, and the trial that an algorithm must
// pass.

// y = sums + bias, rounded once. blockIdx.y is the row; `y` is the address of the first row's first output.
KERNEL __launch_bounds__(256)
    finish(const float *sums, u64 pitch, const u8 *bias, u32 bias_dtype, act *y, u64 columns, u32 outputs) {
    u32 j = blockIdx.x * 256u + threadIdx.x;
    if (j >= outputs) return;
    float b = bias ? rounded(load(bias, bias_dtype, j)) : 0.0f;
    y[blockIdx.y * columns + j] = act_bits(sums[blockIdx.y * pitch + j] + b);
}

// Values in -1..1 that differ for each seed.
KERNEL __launch_bounds__(256) fill(act *x, u64 n, u32 seed) {
    u64 i = (u64)blockIdx.x * 256u + threadIdx.x;
    if (i >= n) return;
    u32 h = (u32)i * 0x9e3779b9u + seed * 0x85ebca6bu;
    h = (h ^ (h >> 16)) * 0x7feb352du;
    h = (h ^ (h >> 15)) * 0x846ca68bu;
    h ^= h >> 16;
    x[i] = act_bits((float)(h >> 8) / 8388608.0f - 1.0f);
}

// No difference yet.
KERNEL __launch_bounds__(256) clear(u32 *different) {
    if (threadIdx.x == 0u) *different = 0u;
}

// Reports whether any bit of two blocks with this many columns differs. blockIdx.y is the row.
KERNEL __launch_bounds__(256) compare(const float *a, u64 a_pitch, const float *b, u64 b_pitch, u32 columns, u32 *different) {
    u32 j = blockIdx.x * 256u + threadIdx.x;
    if (j >= columns) return;
    if (__float_as_uint(a[blockIdx.y * a_pitch + j]) != __float_as_uint(b[blockIdx.y * b_pitch + j])) *different = 1u;
}
