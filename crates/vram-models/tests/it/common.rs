use std::path::PathBuf;
use std::sync::Arc;

use vram_device::{Budget, Tier, cpu::Cpu};
use vram_diskmap::DiskMap;
use vram_layers::VramConfig;
use vram_types::DType;

pub(crate) fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

pub(crate) fn read_f32(map: &DiskMap, name: &str) -> Vec<f32> {
    let tensor = map.get(name).unwrap();
    assert_eq!(tensor.meta().dtype(), DType::F32);
    f32s(tensor.bytes())
}

pub(crate) fn relative_l2(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 = actual.iter().zip(expected).map(|(a, e)| square(f64::from(*a) - f64::from(*e))).sum();
    let norm: f64 = expected.iter().map(|e| square(f64::from(*e))).sum();
    (error / norm).sqrt()
}

pub(crate) fn cpu() -> Arc<Cpu> {
    Arc::new(Cpu::new(Default::default()).unwrap())
}

pub(crate) fn config(dtype: DType, bytes: u64) -> VramConfig {
    VramConfig::disk(dtype, Budget::new(Tier::Device, bytes))
}
