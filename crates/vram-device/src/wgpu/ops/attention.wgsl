// Rows of y in place, one workgroup per row: for each head the queries. The first sees `limit` keys, and each
// of the others one more than the one before, up to all keys.

struct Parameters { rows: u32, width: u32, y: u32, queries: u32, limit: u32 }
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
    let seen = min(p.width, p.limit + row % p.queries);
    var largest = old(first);
    for (var i = thread; i < seen; i += THREADS) {
        largest = max(largest, old(first + i));
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
    for (var i = thread; i < seen; i += THREADS) {
        let e = exp_of(old(first + i) - largest, 0.0);
        put(first + i, e);
        sum += e;
    }
    let scale = 1.0 / total(sum, thread);
    for (var i = thread; i < p.width; i += THREADS) {
        // What the query does not see may be NaN.
        var weight = 0.0;
        if (i < seen) { weight = old(first + i) * scale; }
        put(first + i, weight);
    }
}
