// Rows of y in place, a group for each.

struct Parameters { rows: u32, width: u32, y: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if (row >= p.rows) { return; }
    let first = p.y + row * p.width;
    var largest = bitcast<f32>(old(first));
    for (var i = thread; i < p.width; i += THREADS) {
        largest = max(largest, bitcast<f32>(old(first + i)));
    }
    partial[thread] = largest;
    workgroupBarrier();
    for (var n = THREADS / 2u; n > 0u; n /= 2u) {
        if (thread < n) { partial[thread] = max(partial[thread], partial[thread + n]); }
        workgroupBarrier();
    }
    largest = partial[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var i = thread; i < p.width; i += THREADS) {
        let e = exp_of(bitcast<f32>(old(first + i)) - largest, 0.0);
        put(first + i, e);
        sum += e;
    }
    let scale = 1.0 / total(sum, thread);
    for (var i = thread; i < p.width; i += THREADS) {
        put(first + i, bitcast<f32>(old(first + i)) * scale);
    }
}
