//! Conversions: the bytes are TOML, applied to one small checkpoint; what they make is read.
#![no_main]

use vram_diskmap::{Conversion, DiskMap, SafetensorsWriter};
use vram_types::{DType, TensorMeta};

const TENSORS: [(&str, DType, &[usize]); 6] = [
    ("a.0.qkv.weight", DType::F32, &[6, 4]),
    ("a.0.qkv.bias", DType::F32, &[6]),
    ("a.1.qkv.weight", DType::F32, &[6, 4]),
    ("b", DType::BF16, &[4, 3, 2]),
    ("half", DType::F4, &[4, 6]),
    ("ids", DType::I64, &[5]),
];
const MOST_READ_BYTES: u64 = 1 << 20;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let path = vram_fuzz::folder().join("conversion.safetensors");
    if !path.exists() {
        let meta = |dtype, shape: &[usize]| TensorMeta::new(dtype, shape).expect("a small tensor");
        let tensors = TENSORS.map(|(name, dtype, shape)| (name, meta(dtype, shape)));
        let mut writer = SafetensorsWriter::create(&path, tensors.clone(), &[]).expect("a temporary file");
        for (_, meta) in tensors {
            writer.write(&vec![0x5A; meta.bytes() as usize]).expect("a temporary file");
        }
        writer.finish().expect("a temporary file");
    }
    let Ok(conversion) = std::str::from_utf8(data).map_err(drop).and_then(|text| Conversion::from_toml(text).map_err(drop))
    else {
        return;
    };
    let Ok(converted) = DiskMap::open(&path).expect("the checkpoint").convert(&conversion) else { return };
    for (name, located) in converted.iter().take(64) {
        if located.meta.bytes() <= MOST_READ_BYTES {
            let whole = converted.get(name).expect("a tensor of the checkpoint's");
            assert_eq!(whole.bytes().len() as u64, located.meta.bytes());
        }
    }
});
