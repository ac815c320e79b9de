@group(0) @binding(BINDING) var<storage, read_write> words: array<u32>;
const PER_WORD = 2u;

fn value(word: u32, j: u32) -> f32 { return FORMAT_value((word >> (j * 16u)) & 0xffffu); }

fn replaced(word: u32, j: u32, v: f32) -> u32 {
    let shift = j * 16u;
    return (word & (0xffff0000u >> shift)) | ((FORMAT_bits(v) & 0xffffu) << shift);
}
