// The sum over a workgroup of 64 threads, added pairwise.

const THREADS = 64u;
var<workgroup> partial: array<f32, THREADS>;

fn total(value: f32, thread: u32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    for (var n = THREADS / 2u; n > 0u; n /= 2u) {
        if (thread < n) { partial[thread] += partial[thread + n]; }
        workgroupBarrier();
    }
    let sum = partial[0];
    workgroupBarrier();
    return sum;
}
