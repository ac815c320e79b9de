@group(0) @binding(BINDING) var<storage, read_write> result: array<atomic<u32>>;

fn old(i: u32) -> f32 { return FORMAT_value((atomicLoad(&result[i >> 1u]) >> ((i & 1u) * 16u)) & 0xffffu); }

fn put(i: u32, v: f32) {
    let shift = (i & 1u) * 16u;
    atomicAnd(&result[i >> 1u], 0xffff0000u >> shift);
    atomicOr(&result[i >> 1u], (FORMAT_bits(v) & 0xffffu) << shift);
}

fn put2(i: u32, v: f32, w: f32) {
    atomicStore(&result[i >> 1u], (FORMAT_bits(v) & 0xffffu) | (FORMAT_bits(w) << 16u));
}
