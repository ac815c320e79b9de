// The windows of a convolution as rows. A block takes elements of one row, one per thread.

// Depth, height and width of each.
struct Window {
    u64 extents[3], outputs[3], kernel[3], stride[3], dilation[3], before[3];
};

// The position of a kernel element along an axis; beyond the extent if it is in the padding.
DEVICE u32 place(const Window &window, u32 axis, u32 output, u32 element) {
    return output * (u32)window.stride[axis] + element * (u32)window.dilation[axis] - (u32)window.before[axis];
}

KERNEL __launch_bounds__(256)
    im2col(const act *x, act *y, const Window window, u64 first, u32 channels, u32 width) {
    u32 i = blockIdx.y * THREADS + threadIdx.x;
    if (i >= width) return;
    u64 position = first + blockIdx.x;
    u64 line = position / window.outputs[2];
    u32 channel = i % channels, element = i / channels;
    u32 wide = (u32)window.kernel[2], high = (u32)window.kernel[1];
    u32 w = place(window, 2u, (u32)(position % window.outputs[2]), element % wide);
    u32 h = place(window, 1u, (u32)(line % window.outputs[1]), element / wide % high);
    u32 d = place(window, 0u, (u32)(line / window.outputs[1]), element / wide / high);
    act value = 0;
    if (d < window.extents[0] && h < window.extents[1] && w < window.extents[2])
        value = x[((d * window.extents[1] + h) * window.extents[2] + w) * channels + channel];
    y[(u64)blockIdx.x * width + i] = value;
}
