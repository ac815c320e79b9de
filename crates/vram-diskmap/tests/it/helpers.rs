//! Checkpoints to test with, and short names for what tests say often.

use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use vram_diskmap::{DiskMap, DiskMapOptions};
use vram_types::{SourceError, SourceErrorKind};

/// Bytes that differ from place to place.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Name, dtype, shape and bytes of a tensor to write.
pub(crate) type Written = (String, Dtype, Vec<usize>, Vec<u8>);

/// Writes a file with the format's own crate.
pub(crate) fn write(path: &Path, tensors: &[Written]) {
    std::fs::write(path, serialized(tensors)).unwrap();
}

/// The same in memory.
pub(crate) fn serialized(tensors: &[Written]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

/// A few tensors of several dtypes and ranks, a scalar and an empty one among them.
pub(crate) fn some_tensors() -> Vec<Written> {
    let t = |name: &str, dtype, shape: &[usize], bytes| {
        (name.to_owned(), dtype, shape.to_vec(), noise(bytes as u64, bytes))
    };
    vec![
        t("a.weight", Dtype::BF16, &[64, 48], 64 * 48 * 2),
        t("a.bias", Dtype::F32, &[64], 256),
        t("scalar", Dtype::F32, &[], 4),
        t("empty", Dtype::F32, &[0, 7], 0),
        t("ids", Dtype::I64, &[3, 5, 7], 3 * 5 * 7 * 8),
        t("big", Dtype::F32, &[600, 1000], 600 * 1000 * 4),
        t("gru\u{df}.\u{1F600}\"\\", Dtype::U8, &[11], 11),
        t("half bytes", Dtype::F4, &[6, 4], 12),
    ]
}

/// The kind of a failure to open, with the message for when that surprises.
pub(crate) fn refused(options: &DiskMapOptions, path: &Path) -> (SourceErrorKind, SourceError) {
    match options.open(path) {
        Ok(map) => panic!("{} was accepted: {map:?}", path.display()),
        Err(e) => (e.kind(), e),
    }
}

/// Whether every tensor of the map holds what was written.
pub(crate) fn holds(map: &DiskMap, tensors: &[Written]) {
    for (name, dtype, shape, bytes) in tensors {
        let info = map.tensor(name).unwrap_or_else(|| panic!("no {name:?}"));
        assert_eq!(info.dtype().name(), format!("{dtype:?}"), "{name:?}");
        assert_eq!(info.shape().dims(), shape, "{name:?}");
        assert!(map.get(name).unwrap().bytes() == bytes, "{name:?}");
    }
}
