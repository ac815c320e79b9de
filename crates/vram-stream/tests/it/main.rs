//! Loads whole checkpoints onto a device and compares them with what the disk map reads.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

use vram_stream::device::DeviceError;
use vram_stream::diskmap::SafetensorsWriter;
use vram_stream::types::cast::cast;
use vram_stream::{
    Budget, Cpu, CpuOptions, DType, Device, DiskMap, Error, TensorMeta, Tier, View, load_to_device,
};

/// Tensors of several dtypes: an empty one, a scalar, odd lengths, and one larger than a staging
/// piece.
fn checkpoint(folder: &Path) -> PathBuf {
    let path = folder.join("model.safetensors");
    let meta = |dtype, shape: &[usize]| TensorMeta::new(dtype, shape).unwrap();
    let tensors = [
        ("large", meta(DType::BF16, &[1500, 3001])),
        ("scalar", meta(DType::F32, &[])),
        ("empty", meta(DType::F16, &[0, 7])),
        ("ids", meta(DType::U8, &[13])),
        ("half", meta(DType::F16, &[5, 3])),
    ];
    let bytes: u64 = tensors.iter().map(|(_, m)| m.bytes()).sum();
    let mut writer = SafetensorsWriter::create(&path, tensors, &[]).unwrap();
    let noise: Vec<u8> = (0..bytes).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    writer.write(&noise).unwrap();
    writer.finish().unwrap();
    path
}

fn devices() -> [Cpu; 2] {
    [false, true].map(|discrete| Cpu::new(CpuOptions { discrete, ..Default::default() }).unwrap())
}

fn budget(bytes: u64) -> Budget {
    Budget::new(Tier::Device, bytes)
}

fn bytes_of(cpu: &Cpu, view: &View<'_>) -> Vec<u8> {
    let mut bytes = vec![0; view.meta().bytes() as usize];
    let (region, at) = view.region().unwrap();
    cpu.download(region, at, &mut bytes).unwrap();
    bytes
}

#[test]
fn equals_what_the_disk_map_reads_and_casts() {
    let folder = tempfile::tempdir().unwrap();
    let path = checkpoint(folder.path());
    let map = DiskMap::open(&path).unwrap();
    for cpu in devices() {
        for dtype in [None, Some(DType::F32), Some(DType::BF16)] {
            let loaded = load_to_device(&path, &cpu, dtype, &budget(u64::MAX)).unwrap();
            assert!(loaded.names().eq(map.iter().map(|(name, _)| name)));
            assert!(loaded.get("nobody").is_none());
            for (name, info) in map.iter() {
                let stored = map.get(name).unwrap();
                let to = dtype.filter(|_| info.dtype().is_float()).unwrap_or(info.dtype());
                let meta = TensorMeta::new(to, info.shape().clone()).unwrap();
                let mut expected = vec![0; meta.bytes() as usize];
                if to == info.dtype() {
                    expected.copy_from_slice(stored.bytes());
                } else {
                    cast(stored.bytes(), info.dtype(), &mut expected, to).unwrap();
                }
                let view = loaded.get(name).unwrap();
                assert_eq!(view.meta(), &meta, "{name}");
                assert!(bytes_of(&cpu, &view) == expected, "{name} as {dtype:?}");
            }
        }
    }
}

#[test]
fn the_budget_is_exact_to_the_byte_and_checked_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = checkpoint(folder.path());
    let map = DiskMap::open(&path).unwrap();
    let headers = map.bytes_read();
    let needed: u64 = map.iter().map(|(_, info)| info.meta().bytes()).sum();
    for cpu in devices() {
        let tight = budget(needed - 1);
        let error = vram_stream::DeviceMap::load(&map, &cpu, &tight).unwrap_err();
        assert!(matches!(error, Error::BudgetTooSmall { needed: n, .. } if n == needed), "{error}");
        assert!(error.is_oom() && error.to_string().contains(&needed.to_string()), "{error}");
        assert_eq!((map.bytes_read(), tight.peak()), (headers, 0));

        let exact = budget(needed);
        let loaded = load_to_device(&path, &cpu, None, &exact).unwrap();
        assert_eq!((loaded.bytes(), exact.used()), (needed, needed));
        drop(loaded);
        assert_eq!((exact.used(), exact.peak()), (0, needed));
    }
}

#[test]
fn a_fault_is_typed_and_gives_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = checkpoint(folder.path());
    for cpu in devices() {
        let room = budget(u64::MAX);
        let error = load_to_device(folder.path().join("nowhere"), &cpu, None, &room).unwrap_err();
        assert!(matches!(error, Error::Source(_)) && error.to_string().contains("nowhere"), "{error}");
        let map = DiskMap::open(&path).unwrap();
        // The file is truncated after its header was read.
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
        let error = vram_stream::DeviceMap::load(&map, &cpu, &room).unwrap_err();
        assert!(
            matches!(error, Error::Source(_)) && error.to_string().contains("model.safetensors"),
            "{error}"
        );
        assert_eq!(room.used(), 0);
        checkpoint(folder.path());
    }
    let error = Error::from(DeviceError::Lost { reason: "gone".into() });
    assert!(!error.is_oom());
}

/// `?` on a layer's error once did not compile beside `?` on a loader's.
#[test]
fn one_error_takes_those_of_every_crate() {
    fn of<E: Into<Error>>(error: E) -> Error {
        error.into()
    }
    let small = vram_stream::layers::Error::Offloaded;
    let types = TensorMeta::new(DType::F64, [usize::MAX, 2]).unwrap_err();
    let source = DiskMap::open("nowhere.safetensors").unwrap_err();
    let alloc = vram_stream::alloc::AllocError::OutOfMemory { bytes: 1 };
    let model = vram_stream::models::ModelError::Config("no heads".into());
    for (error, text, oom) in [
        (of(small), "offloaded", false),
        (of(types), "overflows", false),
        (of(source), "nowhere.safetensors", false),
        (of(alloc), "1", true),
        (of(model), "no heads", false),
    ] {
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.is_oom(), oom, "{error}");
    }
}
