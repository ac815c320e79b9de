// Norms, a block for each row; and what is computed element by element. Blocks have 256 threads.

#define THREADS 256u

// The sum of one value of each thread, in an order that depends on nothing.
DEVICE float total(float mine, float *shared) {
    u32 t = threadIdx.x;
    shared[t] = mine;
    __syncthreads();
    for (u32 half = THREADS / 2u; half > 0u; half /= 2u) {
        if (t < half) shared[t] += shared[t + half];
        __syncthreads();
    }
    float sum = shared[0];
    // Before the memory is used again.
    __syncthreads();
    return sum;
}

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
        y[row + i] = act_bits(normal * rounded(load(weight, weight_dtype, i)));
    }
}

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
        float w = rounded(load(weight, weight_dtype, i));
        float b = rounded(load(bias, bias_dtype, i));
        y[row + i] = act_bits(fmaf(normal, w, b));
    }
}

#define GELU 0u

KERNEL __launch_bounds__(256) activate(u32 function, act *x, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float v = act_value(x[i]);
    // By erfc, which keeps its digits where 1 + erf has lost them.
    float y = function == GELU ? 0.5f * v * erfcf(-0.70710678f * v) : v / (1.0f + expf(-v));
    x[i] = act_bits(y);
}

#define ADD 0u

KERNEL __launch_bounds__(256) binary(u32 op, const act *x, act *y, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    float a = act_value(y[i]), b = act_value(x[i]);
    y[i] = act_bits(op == ADD ? a + b : a * b);
}

KERNEL __launch_bounds__(256) cast(const u8 *x, u32 dtype, act *y, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] = act_bits(load(x, dtype, i));
}

// The ids of a run of `gather`, which travel with its arguments.
struct Ids {
    u32 id[900];
};

// A block's y is the number of the row in this run.
KERNEL __launch_bounds__(256) gather(const u8 *table, u32 dtype, act *y, u64 width, const Ids ids) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= width) return;
    u64 row = ids.id[blockIdx.y];
    y[blockIdx.y * width + i] = act_bits(load(table, dtype, row * width + i));
}
