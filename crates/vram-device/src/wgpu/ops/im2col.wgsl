// The windows of a convolution as rows. Elements in rows of x that are not in this part are left unchanged.

// Depth, height and width of each of the last six.
struct Parameters {
    elements: u32, width: u32, channels: u32, x: u32,
    y: u32, first: u32, begin: u32, end: u32,
    extents: vec4<u32>, outputs: vec4<u32>, kernel: vec4<u32>, stride: vec4<u32>, dilation: vec4<u32>, before: vec4<u32>,
}

fn filled(bits: u32, j: u32, i: u32) -> u32 {
    let position = p.first + i / p.width;
    let element = i % p.width / p.channels;
    let line = position / p.outputs.z;
    let output = vec3<u32>(line / p.outputs.y, line % p.outputs.y, position % p.outputs.z);
    let row_of_kernel = element / p.kernel.z;
    let inner = vec3<u32>(row_of_kernel / p.kernel.y, row_of_kernel % p.kernel.y, element % p.kernel.z);
    // Before the first element, this wraps to beyond the extents.
    let at = output * p.stride.xyz + inner * p.dilation.xyz - p.before.xyz;
    if (any(at >= p.extents.xyz)) { return replaced(bits, j, 0.0); }
    let row = (at.x * p.extents.y + at.y) * p.extents.z + at.z;
    if (row < p.begin || row >= p.end) { return bits; }
    return replaced(bits, j, read0(p.x, (row - p.begin) * p.channels + i % p.channels));
}
