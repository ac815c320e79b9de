// y = (x - mean) / sqrt(variance + eps) weight + bias, with mean and variance over the positions of an item
// and the channels of a group. Sums are taken over chunks of positions, whose means and squares are then
// combined in a fixed order.

// For each chunk, group and item: the mean, and the sum of the squared differences to it.
KERNEL __launch_bounds__(256)
    group_norm_sums(const act *x, float *parts, u64 positions, u32 channels, u32 width, u64 chunk) {
    __shared__ float shared[THREADS];
    u64 first = blockIdx.x * chunk;
    u64 count = (positions - first < chunk ? positions - first : chunk) * width;
    const act *from = x + (blockIdx.z * positions + first) * channels + blockIdx.y * width;
    float sum = 0.0f;
    for (u64 i = threadIdx.x; i < count; i += THREADS) sum += act_value(from[i / width * channels + i % width]);
    float mean = total(sum, shared) / (float)count;
    sum = 0.0f;
    for (u64 i = threadIdx.x; i < count; i += THREADS) {
        float v = act_value(from[i / width * channels + i % width]) - mean;
        sum = fmaf(v, v, sum);
    }
    float squares = total(sum, shared);
    if (threadIdx.x != 0u) return;
    float *part = parts + (((u64)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * 2u;
    part[0] = mean;
    part[1] = squares;
}

// For each channel and item, what `group_norm` needs: the mean, the factor and the bias.
KERNEL __launch_bounds__(256)
    group_norm_moments(const float *parts, float *table, const u8 *weight, u32 weight_dtype, const u8 *bias, u32 bias_dtype,
                       float eps, u64 positions, u32 channels, u32 width, u64 chunk, u64 chunks) {
    __shared__ float shared[THREADS];
    const float *mine = parts + ((u64)blockIdx.y * gridDim.x + blockIdx.x) * chunks * 2u;
    float all = (float)(positions * width);
    float sum = 0.0f;
    for (u64 i = threadIdx.x; i < chunks; i += THREADS) {
        u64 here = positions - i * chunk < chunk ? positions - i * chunk : chunk;
        sum = fmaf((float)(here * width), mine[2u * i], sum);
    }
    float mean = total(sum, shared) / all;
    sum = 0.0f;
    for (u64 i = threadIdx.x; i < chunks; i += THREADS) {
        u64 here = positions - i * chunk < chunk ? positions - i * chunk : chunk;
        float v = mine[2u * i] - mean;
        sum += fmaf((float)(here * width) * v, v, mine[2u * i + 1u]);
    }
    float scale = 1.0f / sqrtf(total(sum, shared) / all + eps);
    for (u32 i = threadIdx.x; i < width; i += THREADS) {
        u32 channel = blockIdx.x * width + i;
        float *to = table + ((u64)blockIdx.y * channels + channel) * 3u;
        to[0] = mean;
        to[1] = weight ? scale * rounded(load(weight, weight_dtype, channel)) : scale;
        to[2] = bias ? rounded(load(bias, bias_dtype, channel)) : 0.0f;
    }
}

// One thread for each element of an item.
KERNEL __launch_bounds__(256) group_norm(const act *x, const float *table, act *y, u32 channels, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    const float *mine = table + ((u64)blockIdx.y * channels + i % channels) * 3u;
    u64 at = blockIdx.y * n + i;
    y[at] = act_bits(fmaf(act_value(x[at]) - mine[0], mine[1], mine[2]));
}
