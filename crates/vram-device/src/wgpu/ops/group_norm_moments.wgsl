// For each channel, what the result needs: the mean, the factor and the bias; one workgroup per group.
// `first` and `second` are where the weight and the bias begin, if present.

struct Parameters {
    groups: u32, width: u32, positions: u32, chunk: u32, chunks: u32,
    parts: u32, table: u32, first: u32, second: u32, eps: f32,
}
@group(0) @binding(0) var<uniform> p: Parameters;

fn elements(chunk: u32) -> f32 { return f32(min(p.chunk, p.positions - chunk * p.chunk)) * f32(p.width); }

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let own = group.y * groups.x + group.x;
    if (own >= p.groups) { return; }
    let all = f32(p.positions) * f32(p.width);
    var sum = 0.0;
    for (var i = thread; i < p.chunks; i += THREADS) {
        sum = fma(elements(i), old(p.parts + 2u * (i * p.groups + own)), sum);
    }
    let mean = total(sum, thread) / all;
    var squares = 0.0;
    for (var i = thread; i < p.chunks; i += THREADS) {
        let part = p.parts + 2u * (i * p.groups + own);
        let x = old(part) - mean;
        squares += fma(elements(i) * x, x, old(part + 1u));
    }
    let scale = 1.0 / sqrt(total(squares, thread) / all + p.eps);
    for (var i = thread; i < p.width; i += THREADS) {
        let channel = own * p.width + i;
        let to = p.table + 3u * channel;
        put(to, mean);
        put(to + 1u, scale * weight(channel));
        put(to + 2u, bias(channel));
    }
}
