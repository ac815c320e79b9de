// To the dtype of activations.

KERNEL __launch_bounds__(256) cast(const u8 *x, u32 dtype, act *y, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) y[i] = act_bits(load(x, dtype, i));
}
