//! GGUF: the bytes are the file, or what follows its magic number and version.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vram_fuzz::check("m.gguf", data);
    vram_fuzz::check("m.gguf", &[b"GGUF\x03\0\0\0", data].concat());
});
