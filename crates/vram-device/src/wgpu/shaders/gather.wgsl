// A word of y for each thread; elements of rows that this part of the table has not stay as they are.

struct Parameters { elements: u32, width: u32, x: u32, y: u32, first: u32, end: u32, ids: array<vec4<u32>, 1024> }
@group(0) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let word = p.y / PER_WORD + id.y * groups.x * 64u + id.x;
    if (word * PER_WORD >= p.y + p.elements) { return; }
    var bits = words[word];
    for (var j = 0u; j < PER_WORD; j++) {
        let i = word * PER_WORD + j;
        if (i >= p.y && i < p.y + p.elements) {
            let row = (i - p.y) / p.width;
            let at = p.ids[row / 4u][row % 4u];
            if (at >= p.first && at < p.end) {
                bits = replaced(bits, j, read0(p.x, (at - p.first) * p.width + (i - p.y) % p.width));
            }
        }
    }
    words[word] = bits;
}
