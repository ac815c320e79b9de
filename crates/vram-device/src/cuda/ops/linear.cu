// y = x W^T + b in tiles. One thread sums each element, over the inner extent in ascending order with one
// `fmaf` per term, whatever the tile. So the result does not depend on the number of rows or on how the
// weight was cut. WEIGHT is the weight's dtype; it is unpacked on its way to shared memory.

#define STEP 16u

// A block of 16 x 16 threads computes 16 R rows by 16 C columns. Shared rows have one element more, so that
// neighbouring threads write to different banks.
template <int R, int C>
DEVICE void tile(const act *x, const u8 *weight, const u8 *bias, u32 bias_dtype, act *y, u32 rows, u32 outputs, u32 inner,
                 u64 columns, float (*xs)[16 * R + 1], float (*ws)[16 * C + 1]) {
    u32 t = threadIdx.x;
    u32 tx = t % 16u, ty = t / 16u;
    u64 row0 = (u64)blockIdx.x * (16 * R), column0 = (u64)blockIdx.y * (16 * C);
    float sums[R][C];
    UNROLL
    for (int r = 0; r < R; r++)
        UNROLL
        for (int c = 0; c < C; c++) sums[r][c] = 0.0f;
    for (u32 k0 = 0; k0 < inner; k0 += STEP) {
        // Neighbouring threads read neighbouring elements of one row.
        u32 k = k0 + tx;
        UNROLL
        for (int r = 0; r < R; r++) {
            u64 row = row0 + (u64)(r * 16) + ty;
            xs[tx][r * 16 + ty] = row < rows && k < inner ? act_value(x[row * inner + k]) : 0.0f;
        }
        UNROLL
        for (int c = 0; c < C; c++) {
            u64 output = column0 + (u64)(c * 16) + ty;
            bool inside = output < outputs && k < inner;
            ws[tx][c * 16 + ty] = inside ? rounded(element(weight, WEIGHT, output * inner + k)) : 0.0f;
        }
        __syncthreads();
        u32 steps = inner - k0 < STEP ? inner - k0 : STEP;
        for (u32 s = 0; s < steps; s++) {
            float a[R], b[C];
            UNROLL
            for (int r = 0; r < R; r++) a[r] = xs[s][r * 16 + ty];
            UNROLL
            for (int c = 0; c < C; c++) b[c] = ws[s][c * 16 + tx];
            UNROLL
            for (int r = 0; r < R; r++)
                UNROLL
                for (int c = 0; c < C; c++) sums[r][c] = fmaf(a[r], b[c], sums[r][c]);
        }
        __syncthreads();
    }
    UNROLL
    for (int c = 0; c < C; c++) {
        u64 output = column0 + (u64)(c * 16) + tx;
        if (output >= outputs) continue;
        float b = bias ? rounded(load(bias, bias_dtype, output)) : 0.0f;
        UNROLL
        for (int r = 0; r < R; r++) {
            u64 row = row0 + (u64)(r * 16) + ty;
            if (row < rows) y[row * columns + output] = act_bits(sums[r][c] + b);
        }
    }
}

// 16 rows by 64 columns; `y` is the address of the first row's first output, and rows are `columns` apart.
KERNEL __launch_bounds__(256)
    linear_low(const act *x, const u8 *weight, const u8 *bias, u32 bias_dtype, act *y, u32 rows, u32 outputs, u32 inner,
               u64 columns) {
    __shared__ float xs[STEP][17], ws[STEP][65];
    tile<1, 4>(x, weight, bias, bias_dtype, y, rows, outputs, inner, columns, xs, ws);
}

// 128 rows by 128 columns; two blocks per multiprocessor.
KERNEL __launch_bounds__(256, 2)
    linear_high(const act *x, const u8 *weight, const u8 *bias, u32 bias_dtype, act *y, u32 rows, u32 outputs, u32 inner,
                u64 columns) {
    __shared__ float xs[STEP][129], ws[STEP][129];
    tile<8, 8>(x, weight, bias, bias_dtype, y, rows, outputs, inner, columns, xs, ws);
}
