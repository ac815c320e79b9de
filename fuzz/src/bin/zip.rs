//! Archives and whatever else a file of PyTorch may be: the bytes are the file.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    vram_fuzz::check("m.pt", data);
});
