// Sums over a block, for norms.

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
