// Pairs of elements of each head rotated in place. A block takes pairs of one row, one per thread.

KERNEL __launch_bounds__(256)
    rotary(const u8 *table, act *x, u32 heads, u32 head_dim, u32 pairs, u32 interleaved) {
    u32 i = blockIdx.y * THREADS + threadIdx.x;
    if (i >= heads * pairs) return;
    u32 pair = i % pairs, head = i / pairs;
    u64 row = blockIdx.x;
    float cosine = element(table, F32, row * 2u * pairs + pair);
    float sine = element(table, F32, row * 2u * pairs + pairs + pair);
    act *first = x + (row * heads + head) * head_dim + (interleaved ? 2u * pair : pair);
    act *second = first + (interleaved ? 1u : pairs);
    float a = act_value(*first), b = act_value(*second);
    *first = act_bits(a * cosine - b * sine);
    *second = act_bits(b * cosine + a * sine);
}
