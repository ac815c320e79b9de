// Sums over a block, for norms.

// The sum of one value per thread, in a fixed order.
DEVICE float total(float mine, float *shared) {
    u32 t = threadIdx.x;
    shared[t] = mine;
    __syncthreads();
    for (u32 half = THREADS / 2u; half > 0u; half /= 2u) {
        if (t < half) shared[t] += shared[t + half];
        __syncthreads();
    }
    float sum = shared[0];
    // Before the memory is reused.
    __syncthreads();
    return sum;
}
