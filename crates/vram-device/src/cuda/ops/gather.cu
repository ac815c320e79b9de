// Rows of a table.

// The ids of one launch of `gather`, passed as an argument.
struct Ids {
    u32 id[900];
};

// blockIdx.y is the index of the row in this launch.
KERNEL __launch_bounds__(256) gather(const u8 *table, u32 dtype, act *y, u64 width, const Ids ids) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= width) return;
    u64 row = ids.id[blockIdx.y];
    y[blockIdx.y * width + i] = act_bits(load(table, dtype, row * width + i));
}
