// y = y + factor gate x, in place, with one gate for all rows or none.

KERNEL __launch_bounds__(256)
    scaled_add(const act *x, const act *gate, float factor, act *y, u64 width, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    if (gate) factor *= act_value(gate[i % width]);
    y[i] = act_bits(fmaf(factor, act_value(x[i]), act_value(y[i])));
}
