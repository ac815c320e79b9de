// Rows of a table.

// The ids of a run of `gather`, which travel with its arguments.
struct Ids {
    u32 id[900];
};

// A block's y is the number of the row in this run.
KERNEL __launch_bounds__(256) gather(const u8 *table, u32 dtype, act *y, u64 width, const Ids ids) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= width) return;
    u64 row = ids.id[blockIdx.y];
    y[blockIdx.y * width + i] = act_bits(load(table, dtype, row * width + i));
}
