struct Parameters { skip: u32, place: u32, bytes: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let word = (p.place >> 2u) + id.x;
    let first = word * 4u;
    let end = p.place + p.bytes;
    if (first >= end) { return; }
    // Of the word's bytes, the copy has those from `low` up to `high`.
    let low = select(0u, p.place - first, first < p.place);
    let high = min(end - first, 4u);
    let b = p.skip + first - p.place;
    let shift = (b & 3u) * 8u;
    var bits = words[b >> 2u] >> shift;
    if (shift > 0u) { bits |= words[(b >> 2u) + 1u] << (32u - shift); }
    var mask = 0xffffffffu << (low * 8u);
    if (high < 4u) { mask &= (1u << (high * 8u)) - 1u; }
    result[word] = (result[word] & ~mask) | (bits & mask);
}
