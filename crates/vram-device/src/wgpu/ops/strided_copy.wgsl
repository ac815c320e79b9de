// Elements of BITS bits copied by strides, as bits. A thread fills the part of one word that a run of
// neighbours in y has.

// Axes innermost first: extent, stride in x, stride in y.
struct Parameters {
    threads: u32, words: u32, run: u32, run_from: u32,
    count: u32, x: u32, y: u32, none: u32,
    axes: array<vec4<u32>, 7>,
}
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read_write> source: array<u32>;
@group(0) @binding(2) var<storage, read_write> result: array<atomic<u32>>;

const PER_WORD = 32u / BITS;
const MASK = 0xffffffffu >> (32u - BITS);

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let at = id.y * groups.x * 64u + id.x;
    if (at >= p.threads) { return; }
    var rest = at / p.words;
    var x = 0u;
    var begin = p.y;
    for (var a = 0u; a < p.count; a++) {
        let axis = p.axes[a];
        x += rest % axis.x * axis.y;
        begin += rest % axis.x * axis.z;
        rest /= axis.x;
    }
    let end = begin + p.run;
    let word = begin / PER_WORD + at % p.words;
    var bits = 0u;
    var mask = 0u;
    for (var j = 0u; j < PER_WORD; j++) {
        let i = word * PER_WORD + j;
        if (i >= begin && i < end) {
            bits |= taken(x + (i - begin) * p.run_from) << (j * BITS);
            mask |= MASK << (j * BITS);
        }
    }
    if (mask == 0xffffffffu) {
        atomicStore(&result[word], bits);
    } else if (mask != 0u) {
        // The rest of the word may belong to another thread.
        atomicAnd(&result[word], ~mask);
        atomicOr(&result[word], bits);
    }
}

fn taken(i: u32) -> u32 {
    let b = p.x + i * (BITS / 8u);
    let shift = (b & 3u) * 8u;
    var bits = source[b >> 2u] >> shift;
    // A word is never read before it is needed: there may be none after the last.
    if (shift > 32u - BITS) { bits |= source[(b >> 2u) + 1u] << (32u - shift); }
    return bits & MASK;
}
