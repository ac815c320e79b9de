//! Headers of safetensors: the bytes are the JSON, or the whole file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vram_fuzz::check("m.safetensors", data);
    let header = [&(data.len() as u64).to_le_bytes(), data, &[7; 64]].concat();
    vram_fuzz::check("m.safetensors", &header);
});
