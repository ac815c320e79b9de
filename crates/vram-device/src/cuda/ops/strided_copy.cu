// Elements copied by strides, as bytes: y is aligned to the element size, x may begin anywhere.

// Outermost first; strides in elements.
struct Axes {
    u64 extent[7], from[7], to[7];
};

DEVICE u64 taken(const u8 *p, u32 size) {
    if (((u64)p & (size - 1u)) != 0) {
        u64 bits = 0;
        for (u32 i = 0; i < size; i++) bits |= (u64)p[i] << (8u * i);
        return bits;
    }
    switch (size) {
        case 1u: return *p;
        case 2u: return *(const u16 *)p;
        case 4u: return *(const u32 *)p;
        default: return *(const u64 *)p;
    }
}

DEVICE void put(u8 *p, u32 size, u64 bits) {
    switch (size) {
        case 1u: *p = (u8)bits; break;
        case 2u: *(u16 *)p = (u16)bits; break;
        case 4u: *(u32 *)p = (u32)bits; break;
        default: *(u64 *)p = bits;
    }
}

// Adds the strides of step `rest` along the first `count` axes.
DEVICE void step(const Axes &axes, u32 count, u64 rest, u64 &from, u64 &to) {
    for (u32 axis = count; axis > 0u; axis--) {
        u64 extent = axes.extent[axis - 1u], i = rest % extent;
        rest /= extent;
        from += i * axes.from[axis - 1u];
        to += i * axes.to[axis - 1u];
    }
}

// One thread for each element, in the order of y.
KERNEL __launch_bounds__(256) strided_copy(const u8 *x, u8 *y, u32 size, u32 count, const Axes axes, u64 n) {
    u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n) return;
    u64 from = 0, to = 0;
    step(axes, count, i, from, to);
    put(y + to * size, size, taken(x + from * size, size));
}

// The same if neighbours in x are steps along the second-to-last axis and neighbours in y steps along the
// last: tiles of 32 by 32 steps go through shared memory, so that both are accessed in runs.
KERNEL __launch_bounds__(256) strided_copy_turned(const u8 *x, u8 *y, u32 size, u32 count, const Axes axes) {
    __shared__ u64 tile[32][33];
    u32 across = count - 2u, along = count - 1u;
    u64 width = axes.extent[along], height = axes.extent[across];
    u64 rest = blockIdx.x;
    u64 column = rest % ((width + 31u) / 32u) * 32u;
    rest /= (width + 31u) / 32u;
    u64 row = rest % ((height + 31u) / 32u) * 32u;
    rest /= (height + 31u) / 32u;
    u64 from = 0, to = 0;
    step(axes, across, rest, from, to);
    u32 tx = threadIdx.x % 32u, ty = threadIdx.x / 32u;
    for (u32 r = ty; r < 32u; r += 8u) {
        u64 i = column + r, j = row + tx;
        if (i < width && j < height)
            tile[r][tx] = taken(x + (from + i * axes.from[along] + j * axes.from[across]) * size, size);
    }
    __syncthreads();
    for (u32 r = ty; r < 32u; r += 8u) {
        u64 i = column + tx, j = row + r;
        if (i < width && j < height)
            put(y + (to + i * axes.to[along] + j * axes.to[across]) * size, size, tile[tx][r]);
    }
}
