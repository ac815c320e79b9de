// For each chunk of positions and each group, one workgroup: the mean, and the sum of the squared differences
// to it.

struct Parameters {
    parts: u32, groups: u32, width: u32, channels: u32, positions: u32, chunk: u32, x: u32, y: u32,
}
@group(0) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let part = group.y * groups.x + group.x;
    if (part >= p.parts) { return; }
    let position = part / p.groups * p.chunk;
    let first = position * p.channels + part % p.groups * p.width;
    let n = min(p.chunk, p.positions - position) * p.width;
    var sum = 0.0;
    for (var i = thread; i < n; i += THREADS) {
        sum += read0(p.x, first + i / p.width * p.channels + i % p.width);
    }
    let mean = total(sum, thread) / f32(n);
    var squares = 0.0;
    for (var i = thread; i < n; i += THREADS) {
        let x = read0(p.x, first + i / p.width * p.channels + i % p.width) - mean;
        squares = fma(x, x, squares);
    }
    squares = total(squares, thread);
    if (thread == 0u) {
        put(p.y + 2u * part, mean);
        put(p.y + 2u * part + 1u, squares);
    }
}
