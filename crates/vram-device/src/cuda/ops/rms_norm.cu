// y = round(x rsqrt(mean(x^2) + eps)) weight, one block per row; the weight is optional.

KERNEL __launch_bounds__(256)
    rms_norm(const act *x, const u8 *weight, u32 weight_dtype, float eps, act *y, u32 width) {
    __shared__ float shared[THREADS];
    u64 row = (u64)blockIdx.x * width;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float v = act_value(x[row + i]);
        sum = fmaf(v, v, sum);
    }
    float scale = 1.0f / sqrtf(total(sum, shared) / (float)width + eps);
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float normal = rounded(act_value(x[row + i]) * scale);
        y[row + i] = act_bits(weight ? normal * rounded(load(weight, weight_dtype, i)) : normal);
    }
}
