// The positions of the k largest elements of each row, one block per row. Each round finds the largest of
// those that come after the last one found.

// Orders numbers by value, -0 equal to 0, and every NaN above them; no rank is 0.
DEVICE u32 rank(float x) {
    u32 bits = __float_as_uint(x), mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u) return 0xffffffffu;
    if (mag == 0u) return 0x80000000u;
    return bits == mag ? bits | 0x80000000u : ~bits;
}

KERNEL __launch_bounds__(256) top_k(const act *x, u32 *indices, u32 width, u32 k) {
    __shared__ u64 best[THREADS];
    const act *row = x + (u64)blockIdx.x * width;
    u32 t = threadIdx.x;
    // Rank and position in one number, whose largest comes first: the first of equal elements.
    u64 most = ~0ull;
    for (u32 found = 0; found < k; found++) {
        u64 mine = 0;
        for (u32 i = t; i < width; i += THREADS) {
            u64 one = (u64)rank(act_value(row[i])) << 32 | ~i;
            if (one <= most && one > mine) mine = one;
        }
        best[t] = mine;
        __syncthreads();
        for (u32 half = THREADS / 2u; half > 0u; half /= 2u) {
            if (t < half && best[t + half] > best[t]) best[t] = best[t + half];
            __syncthreads();
        }
        most = best[0] - 1u;
        if (t == 0u) indices[(u64)blockIdx.x * k + found] = ~(u32)best[0];
        // Before the memory is reused.
        __syncthreads();
    }
}
