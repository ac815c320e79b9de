// Two tensors element by element, into the second; one row or column of the first may be broadcast.

#define ADD 0u
#define EQUAL 0u
#define ROW 1u

KERNEL __launch_bounds__(256) binary(u32 op, u32 broadcast, const act *x, act *y, u64 width, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    u64 from = broadcast == EQUAL ? i : broadcast == ROW ? i % width : i / width;
    float a = act_value(y[i]), b = act_value(x[from]);
    y[i] = act_bits(op == ADD ? a + b : a * b);
}
