// y = (x - mean) / sqrt(variance + eps) weight + bias, one block per row; weight and bias are optional.

KERNEL __launch_bounds__(256)
    layer_norm(const act *x, const u8 *weight, u32 weight_dtype, const u8 *bias, u32 bias_dtype, float eps, act *y,
               u32 width) {
    __shared__ float shared[THREADS];
    u64 row = (u64)blockIdx.x * width;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += THREADS) sum += act_value(x[row + i]);
    float mean = total(sum, shared) / (float)width;
    sum = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float v = act_value(x[row + i]) - mean;
        sum = fmaf(v, v, sum);
    }
    float scale = 1.0f / sqrtf(total(sum, shared) / (float)width + eps);
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        float normal = (act_value(x[row + i]) - mean) * scale;
        float w = weight ? rounded(load(weight, weight_dtype, i)) : 1.0f;
        float b = bias ? rounded(load(bias, bias_dtype, i)) : 0.0f;
        y[row + i] = act_bits(fmaf(normal, w, b));
    }
}
