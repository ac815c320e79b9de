@group(0) @binding(BINDING) var<storage, read_write> result: array<u32>;

fn old(i: u32) -> f32 { return bitcast<f32>(result[i]); }

fn put(i: u32, v: f32) { result[i] = bitcast<u32>(v); }

fn put2(i: u32, v: f32, w: f32) {
    result[i] = bitcast<u32>(v);
    result[i + 1u] = bitcast<u32>(w);
}
