// One workgroup per row. `first` and `second` are where the weight and the bias begin, if present.

struct Parameters { rows: u32, width: u32, x: u32, first: u32, second: u32, y: u32, eps: f32 }
@group(0) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if (row >= p.rows) { return; }
    let first = row * p.width;
    let m = moments(first, thread);
    // Words that are entirely in the row are written whole.
    let begin = p.y + first;
    let end = begin + p.width;
    for (var i = (begin & ~1u) + thread * 2u; i < end; i += THREADS * 2u) {
        if (i >= begin && i + 1u < end) {
            put2(i, normal(first, i - begin, m), normal(first, i + 1u - begin, m));
        } else if (i >= begin) {
            put(i, normal(first, i - begin, m));
        } else {
            put(i + 1u, normal(first, 0u, m));
        }
    }
}
