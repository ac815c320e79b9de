// A function of each element, in place, by its number.

KERNEL __launch_bounds__(256) unary(u32 kind, act *x, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) x[i] = act_bits(activation(kind, act_value(x[i])));
}
