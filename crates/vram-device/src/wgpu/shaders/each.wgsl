// Fills each element of y, one word per thread.

@group(0) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let word = p.y / PER_WORD + id.y * groups.x * 64u + id.x;
    if (word * PER_WORD >= p.y + p.elements) { return; }
    var bits = words[word];
    for (var j = 0u; j < PER_WORD; j++) {
        let i = word * PER_WORD + j;
        if (i >= p.y && i < p.y + p.elements) { bits = filled(bits, j, i - p.y); }
    }
    words[word] = bits;
}
