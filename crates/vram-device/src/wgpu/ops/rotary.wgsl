// Pairs of elements of each head rotated in place; each thread takes two neighbouring pairs, because two
// elements may share a word.

struct Parameters { rows: u32, heads: u32, head_dim: u32, pairs: u32, table: u32, y: u32, interleaved: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.y * groups.x * 64u + id.x;
    let steps = (p.pairs + 1u) / 2u;
    // Heads of all rows.
    let head = at / steps;
    if (head >= p.rows * p.heads) { return; }
    let pair = at % steps * 2u;
    let start = p.y + head * p.head_dim;
    let row = head / p.heads;
    if (pair + 1u == p.pairs) {
        let one = turned(start, row, pair);
        put(start + first(pair), one.x);
        put(start + second(pair), one.y);
        return;
    }
    let one = turned(start, row, pair);
    let two = turned(start, row, pair + 1u);
    if (p.interleaved == 1u) {
        both(start + 2u * pair, one.x, one.y);
        both(start + 2u * pair + 2u, two.x, two.y);
    } else {
        both(start + pair, one.x, two.x);
        both(start + p.pairs + pair, one.y, two.y);
    }
}

fn first(pair: u32) -> u32 { return select(pair, 2u * pair, p.interleaved == 1u); }

fn second(pair: u32) -> u32 { return select(p.pairs + pair, 2u * pair + 1u, p.interleaved == 1u); }

fn turned(start: u32, row: u32, pair: u32) -> vec2<f32> {
    let angle = row * 2u * p.pairs + pair;
    let cosine = read0(p.table, angle);
    let sine = read0(p.table, angle + p.pairs);
    let a = old(start + first(pair));
    let b = old(start + second(pair));
    return vec2<f32>(a * cosine - b * sine, b * cosine + a * sine);
}

fn both(i: u32, v: f32, w: f32) {
    if ((i & 1u) == 0u) {
        put2(i, v, w);
    } else {
        put(i, v);
        put(i + 1u, w);
    }
}
