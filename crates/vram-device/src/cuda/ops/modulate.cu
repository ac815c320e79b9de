// y = x (1 + scale) + shift, with one scale and one shift for all rows.

KERNEL __launch_bounds__(256)
    modulate(const act *x, const act *scale, const act *shift, act *y, u64 width, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    u64 column = i % width;
    y[i] = act_bits(fmaf(act_value(x[i]), 1.0f + act_value(scale[column]), act_value(shift[column])));
}
