// y[i, j] = scale * sum over k of a[i, k] b[j, k] + bias[j], the sum in order of k in one f32. It does not
// depend on the thread's other elements or on the rest of the grid.

struct Parameters {
    rows: u32, columns: u32, inner: u32,
    a: u32, a_row: u32, a_batch: u32,
    b: u32, b_row: u32, b_inner: u32, b_batch: u32, b_sharing: u32,
    bias: u32,
    y: u32, y_row: u32, y_batch: u32,
    scale: f32,
}
@group(0) @binding(0) var<uniform> p: Parameters;

const TILE = 16u;
// One more than a row has, so that concurrent writes go to different banks.
const PITCH = 17u;
var<workgroup> tile_a: array<f32, 1024>;
var<workgroup> tile_b: array<vec4<f32>, 272>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first_row = group.y * TILE * ROWS;
    let first_column = group.x * TILE * 4u;
    let a = group.z * p.a_batch;
    let b = group.z / p.b_sharing * p.b_batch;
    let x = thread % TILE;
    let y = thread / TILE;
    var sums: array<vec4<f32>, ROWS>;
    for (var i = 0u; i < ROWS; i++) { sums[i] = vec4<f32>(); }
    for (var k = 0u; k < p.inner; k += TILE) {
        for (var i = 0u; i < ROWS; i++) {
            let row = first_row + y + i * TILE;
            var value = 0.0;
            if (row < p.rows && k + x < p.inner) { value = read0(p.a, a + row * p.a_row + k + x); }
            tile_a[(y + i * TILE) * TILE + x] = value;
        }
        for (var i = 0u; i < 4u; i++) {
            let column = first_column + y * 4u + i;
            var value = 0.0;
            if (column < p.columns && k + x < p.inner) {
                value = rounded(read1(p.b, b + column * p.b_row + (k + x) * p.b_inner));
            }
            tile_b[x * PITCH + y][i] = value;
        }
        workgroupBarrier();
        for (var i = 0u; i < TILE; i++) {
            let right = tile_b[i * PITCH + x];
            for (var j = 0u; j < ROWS; j++) {
                sums[j] = fma(vec4<f32>(tile_a[(y + j * TILE) * TILE + i]), right, sums[j]);
            }
        }
        workgroupBarrier();
    }
    let column = first_column + x * 4u;
    if (column >= p.columns) { return; }
    for (var i = 0u; i < ROWS; i++) {
        let row = first_row + y + i * TILE;
        if (row < p.rows) {
            let at = p.y + group.z * p.y_batch + row * p.y_row + column;
            four(at, min(p.columns - column, 4u), column, sums[i] * p.scale);
        }
    }
}

fn four(at: u32, n: u32, column: u32, sums: vec4<f32>) {
    var v = sums;
    for (var i = 0u; i < n; i++) { v[i] += bias(p.bias, column + i); }
    if (n == 4u && (at & 1u) == 0u) {
        put2(at, v.x, v.y);
        put2(at + 2u, v.z, v.w);
        return;
    }
    for (var i = 0u; i < n; i++) { put(at + i, v[i]); }
}
