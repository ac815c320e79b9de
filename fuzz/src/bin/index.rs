//! Indexes: the bytes are `*.index.json` beside one shard.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let header = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
    let shard = [&(header.len() as u64).to_le_bytes()[..], header, b"xy"].concat();
    let path = vram_fuzz::folder().join("1.safetensors");
    if !path.exists() {
        std::fs::write(path, shard).expect("a temporary file");
    }
    vram_fuzz::check("m.index.json", data);
});
