// The positions of the k largest elements of each row, one workgroup per row. Each round finds the largest of
// those that come after the last one found.

struct Parameters { rows: u32, width: u32, k: u32, x: u32, y: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(2) var<storage, read_write> result: array<u32>;

const THREADS = 64u;
var<workgroup> ranks: array<u32, THREADS>;
var<workgroup> places: array<u32, THREADS>;

// Orders numbers by value, -0 equal to 0, and every NaN above them; no rank is 0.
fn rank(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let mag = bits & 0x7fffffffu;
    if (mag > 0x7f800000u) { return 0xffffffffu; }
    if (mag == 0u) { return 0x80000000u; }
    return select(~bits, bits | 0x80000000u, bits == mag);
}

// Of equal elements the first comes first.
fn before(rank: u32, place: u32, other: u32, other_place: u32) -> bool {
    return rank > other || (rank == other && place < other_place);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if (row >= p.rows) { return; }
    let first = row * p.width;
    var last = 0u;
    var last_place = 0u;
    for (var found = 0u; found < p.k; found++) {
        var best = 0u;
        var place = 0u;
        for (var i = thread; i < p.width; i += THREADS) {
            let one = rank(read0(p.x, first + i));
            let left = found == 0u || before(last, last_place, one, i);
            if (left && before(one, i, best, place)) {
                best = one;
                place = i;
            }
        }
        ranks[thread] = best;
        places[thread] = place;
        workgroupBarrier();
        for (var n = THREADS / 2u; n > 0u; n /= 2u) {
            if (thread < n && before(ranks[thread + n], places[thread + n], ranks[thread], places[thread])) {
                ranks[thread] = ranks[thread + n];
                places[thread] = places[thread + n];
            }
            workgroupBarrier();
        }
        last = ranks[0];
        last_place = places[0];
        if (thread == 0u) { result[p.y + row * p.k + found] = last_place; }
        workgroupBarrier();
    }
}
