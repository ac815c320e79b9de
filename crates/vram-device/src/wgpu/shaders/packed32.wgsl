@group(0) @binding(BINDING) var<storage, read_write> words: array<u32>;
const PER_WORD = 1u;

fn value(word: u32, j: u32) -> f32 { return bitcast<f32>(word); }

fn replaced(word: u32, j: u32, v: f32) -> u32 { return bitcast<u32>(v); }
