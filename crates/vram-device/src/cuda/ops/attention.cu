// y = softmax(scale q k^T) v for each head, in one pass over the keys: scores are never stored. A block takes
// 64 queries of one head and WIDTH columns of the values. Keys come 64 at a time, with the largest score and
// the sum of exponentials so far kept beside them. The result of a query depends on no other query.
//
// `sharing` neighbouring heads of q share one of k and v. Query i sees the keys 0..=first + i; without a mask
// `first` is the number of keys. Keys that no query of the block sees are not read.

#define TILE 64u
#define STEP 16u

template <int COLUMNS>
DEVICE void attend(const act *q, const act *k, const act *v, act *y, u32 queries, u32 keys, u32 heads, u32 sharing, u32 dim,
                   u64 first, float scale, float (*scores)[65], float (*qs)[65], float (*ks)[65], float (*vs)[16 * COLUMNS], float *highest,
                   float *totals, float *shrinks) {
    u32 t = threadIdx.x;
    u32 tx = t % 16u, ty = t / 16u;
    u32 head = blockIdx.y;
    u32 column0 = blockIdx.z * (16u * COLUMNS);
    // The last queries come first: with a mask they have the most keys, and should not run last on their own.
    u64 query0 = (u64)(gridDim.x - 1u - blockIdx.x) * TILE;
    u64 width = (u64)heads * dim, at = (u64)head * dim;
    u64 kv_width = (u64)(heads / sharing) * dim, kv_at = (u64)(head / sharing) * dim;
    u64 end = query0 + TILE < queries ? query0 + TILE : queries;
    u64 seen = first + end < keys ? first + end : keys;
    float sums[4][COLUMNS];
    UNROLL
    for (int r = 0; r < 4; r++)
        UNROLL
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = 0.0f;
    if (t < TILE) {
        highest[t] = __uint_as_float(0xff800000u);
        totals[t] = 0.0f;
    }
    for (u64 key0 = 0; key0 < seen; key0 += TILE) {
        float dots[4][4];
        UNROLL
        for (int r = 0; r < 4; r++)
            UNROLL
            for (int c = 0; c < 4; c++) dots[r][c] = 0.0f;
        for (u32 d0 = 0; d0 < dim; d0 += STEP) {
            u32 d = d0 + tx;
            UNROLL
            for (int r = 0; r < 4; r++) {
                u64 query = query0 + (u64)(r * 16) + ty, key = key0 + (u64)(r * 16) + ty;
                bool in_query = query < queries && d < dim, in_key = key < seen && d < dim;
                qs[tx][r * 16 + ty] = in_query ? act_value(q[query * width + at + d]) : 0.0f;
                ks[tx][r * 16 + ty] = in_key ? act_value(k[key * kv_width + kv_at + d]) : 0.0f;
            }
            __syncthreads();
            u32 steps = dim - d0 < STEP ? dim - d0 : STEP;
            for (u32 s = 0; s < steps; s++)
                UNROLL
                for (int r = 0; r < 4; r++)
                    UNROLL
                    for (int c = 0; c < 4; c++)
                        dots[r][c] = fmaf(qs[s][r * 16 + ty], ks[s][c * 16 + tx], dots[r][c]);
            __syncthreads();
        }
        UNROLL
        for (int r = 0; r < 4; r++)
            UNROLL
            for (int c = 0; c < 4; c++) scores[r * 16 + ty][c * 16 + tx] = dots[r][c] * scale;
        __syncthreads();
        u32 here = seen - key0 < TILE ? (u32)(seen - key0) : TILE;
        if (t < TILE) {
            // Of the loaded keys, those that this query sees.
            u64 limit = first + query0 + t + 1u;
            u32 mine = limit <= key0 ? 0u : limit - key0 < here ? (u32)(limit - key0) : here;
            float before = highest[t], top = before, sum = 0.0f;
            for (u32 j = 0; j < mine; j++) top = fmaxf(top, scores[t][j]);
            for (u32 j = 0; j < mine; j++) {
                float e = expf(scores[t][j] - top);
                scores[t][j] = e;
                sum += e;
            }
            for (u32 j = mine; j < here; j++) scores[t][j] = 0.0f;
            float shrink = expf(before - top);
            highest[t] = top;
            totals[t] = fmaf(totals[t], shrink, sum);
            shrinks[t] = shrink;
        }
        __syncthreads();
        UNROLL
        for (int r = 0; r < 4; r++)
            UNROLL
            for (int c = 0; c < COLUMNS; c++) sums[r][c] *= shrinks[r * 16 + ty];
        for (u32 j0 = 0; j0 < here; j0 += STEP) {
            u64 key = key0 + j0 + ty;
            UNROLL
            for (int c = 0; c < COLUMNS; c++) {
                u32 column = column0 + (u32)(c * 16) + tx;
                bool inside = key < seen && column < dim;
                vs[ty][c * 16 + tx] = inside ? act_value(v[key * kv_width + kv_at + column]) : 0.0f;
            }
            __syncthreads();
            u32 steps = here - j0 < STEP ? here - j0 : STEP;
            for (u32 s = 0; s < steps; s++)
                UNROLL
                for (int r = 0; r < 4; r++)
                    UNROLL
                    for (int c = 0; c < COLUMNS; c++)
                        sums[r][c] = fmaf(scores[r * 16 + ty][j0 + s], vs[s][c * 16 + tx], sums[r][c]);
            __syncthreads();
        }
    }
    UNROLL
    for (int r = 0; r < 4; r++) {
        u64 query = query0 + (u64)(r * 16) + ty;
        UNROLL
        for (int c = 0; c < COLUMNS; c++) {
            u32 column = column0 + (u32)(c * 16) + tx;
            if (query < queries && column < dim)
                y[query * width + at + column] = act_bits(sums[r][c] / totals[r * 16 + ty]);
        }
    }
}

#define ATTENTION(NAME, COLUMNS)                                                                                           \
    KERNEL __launch_bounds__(256)                                                                                          \
        NAME(const act *q, const act *k, const act *v, act *y, u32 queries, u32 keys, u32 heads, u32 sharing, u32 dim,     \
             u64 first, float scale) {                                                                                     \
        __shared__ float scores[TILE][65], qs[STEP][65], ks[STEP][65], vs[STEP][16 * COLUMNS];                             \
        __shared__ float highest[TILE], totals[TILE], shrinks[TILE];                                                       \
        attend<COLUMNS>(q, k, v, y, queries, keys, heads, sharing, dim, first, scale, scores, qs, ks, vs, highest, totals, \
                        shrinks);                                                                                          \
    }

// The number of columns of the values per block.
ATTENTION(attention_64, 4)
ATTENTION(attention_128, 8)
