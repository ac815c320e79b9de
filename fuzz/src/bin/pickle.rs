//! Pickles: the bytes are `data.pkl` of an archive, and what follows the magic number of older files.
#![no_main]

const OLD: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let storages = [("a/data.pkl", data), ("a/data/0", &[7; 64]), ("a/data/1", &[9; 16])];
    vram_fuzz::check("m.pt", &vram_fuzz::zip(&storages));
    vram_fuzz::check("m.pt", &[OLD, data].concat());
});
