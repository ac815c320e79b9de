// y = f(gate) y, by the number of the function.

KERNEL __launch_bounds__(256) gated(u32 kind, const act *gate, act *y, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] = act_bits(activation(kind, act_value(gate[i])) * act_value(y[i]));
}
