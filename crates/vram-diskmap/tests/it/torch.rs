//! Files of PyTorch: every tensor equals what PyTorch reads from the same file, byte for byte.

use std::path::{Path, PathBuf};

use vram_diskmap::{DiskMap, ReadMode};
use vram_types::{DType, FileId, SourceErrorKind, WeightSource, WeightSourceExt};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch")
}

/// Every tensor of `map` against a safetensors file of what is expected, whole and in parts.
pub(crate) fn equals(map: &DiskMap, expected: &DiskMap, what: &str) {
    let names = |map: &DiskMap| {
        let mut names: Vec<String> = map.names().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(map), names(expected), "{what}");
    for (name, info) in map.iter() {
        let right = expected.get(name).unwrap();
        assert_eq!(info.meta(), right.meta(), "{what}: {name}");
        assert!(map.get(name).unwrap().bytes() == right.bytes(), "{what}: {name}");
        let len = right.bytes().len();
        for (from, to) in [(0, len), (1, len), (len / 3, len / 2), (len.saturating_sub(3), len)] {
            if from <= to {
                let mut part = vec![0; to - from];
                map.read_range(name, from as u64..to as u64, &mut part).unwrap();
                assert!(part == right.bytes()[from..to], "{what}: {name}: {from}..{to}");
            }
        }
        if info.shape().rank() > 0 && info.shape()[0] > 1 {
            let range = [1..info.shape()[0]];
            let slice = map.get_slice(name, &range).unwrap();
            assert!(slice == expected.get_slice(name, &range).unwrap(), "{what}: {name}");
        }
        if info.shape().rank() > 1 && info.shape()[1] > 1 {
            let range = [0..info.shape()[0], 1..2];
            let (slice, right) =
                (map.get_slice(name, &range).unwrap(), expected.get_slice(name, &range).unwrap());
            assert!(slice.bytes() == right.bytes() && slice.meta() == right.meta(), "{what}: {name}");
        }
        assert_eq!(map.require(name).unwrap().ranges.is_empty(), info.is_computed());
    }
}

/// Files of the folder that have their expectations beside them.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(folder().join(name.strip_suffix(".expected.safetensors")?))
        })
        .collect();
    files.sort();
    assert!(files.len() >= 13);
    files
}

pub(crate) fn expected(path: &Path) -> DiskMap {
    let mut name = path.as_os_str().to_owned();
    name.push(".expected.safetensors");
    DiskMap::open(PathBuf::from(name)).unwrap()
}

#[test]
fn every_dtype_layout_and_nesting_is_as_pytorch_reads_it() {
    for path in files() {
        let what = path.display().to_string();
        for mode in [ReadMode::Auto, ReadMode::Direct] {
            let map = DiskMap::options().read(mode).open(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
            equals(&map, &expected(&path), &what);
        }
        // SAFETY: nobody writes to the files of this folder while tests run.
        let map = unsafe { DiskMap::open_mapped(&path) }.unwrap();
        equals(&map, &expected(&path), &what);
    }
}

#[test]
fn conversion_of_what_is_gathered() {
    let path = folder().join("layouts.pt");
    let map = DiskMap::options().dtype(DType::BF16).open(&path).unwrap();
    let right = expected(&path);
    for (name, info) in map.iter().filter(|(_, info)| info.dtype() == DType::BF16) {
        let stored = right.get(name).unwrap();
        let mut cast = vec![0; info.meta().bytes() as usize];
        vram_types::cast::cast_serial(stored.bytes(), stored.meta().dtype(), &mut cast, DType::BF16).unwrap();
        assert!(map.get(name).unwrap().bytes() == cast, "{name}");
    }
}

#[test]
fn tied_tensors_share_their_storage_and_others_do_not() {
    for file in ["layouts.pt", "legacy_layouts.pt"] {
        let map = DiskMap::open(folder().join(file)).unwrap();
        let id = |name: &str| map.require(name).unwrap().storage;
        assert_eq!(id("tied_a"), id("tied_b"));
        assert_eq!(id("tied_a"), id("tied_view"));
        // The story: a square matrix and its transpose have one place, one shape and one dtype, and are not the same.
        assert_ne!(id("square"), id("square_t"));
        assert_ne!(id("square"), id("diagonal"));
        assert_ne!(id("square"), id("tied_a"));
        let mut seen = std::collections::HashMap::new();
        for name in map.names() {
            let tensor = map.get(name).unwrap();
            if tensor.bytes().is_empty() {
                continue;
            }
            let before = seen.insert((id(name), tensor.meta().clone()), tensor.clone());
            assert!(before.is_none_or(|before| before == tensor), "{name}");
        }
    }
}

#[test]
fn numbers_and_texts_are_metadata() {
    for file in ["nested.ckpt", "protocol4.pt", "legacy_nested.pth"] {
        let map = DiskMap::open(folder().join(file)).unwrap();
        let metadata = map.metadata(FileId(0));
        let get = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!(get("epoch"), Some("7"), "{file}: {metadata:?}");
        assert_eq!(get("note"), Some("größer \"quoted\"\n"));
        assert_eq!((get("large"), get("negative")), (Some("1099511627776"), Some("-3")));
        assert_eq!(get("optimizer.param_groups.0.betas"), Some("[0.9,0.95]"));
        assert_eq!(get("optimizer.param_groups.0.amsgrad"), Some("False"));
        assert_eq!((get("optimizer.param_groups.0.name"), get("shape")), (Some("None"), Some("[2,3]")));
    }
}

#[test]
fn a_tensor_without_plain_bytes_spoils_no_other() {
    let map = DiskMap::open(folder().join("unreadable.pt")).unwrap();
    assert!(map.names().eq(["plain"]));
    let mut unreadable: Vec<&str> = map.unreadable().map(|(name, _)| name).collect();
    unreadable.sort_unstable();
    assert_eq!(unreadable, ["complex128", "conjugated", "meta", "quantised", "sparse"]);
    let error = map.get("sparse").unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("sparse")));
    assert!(error.message().contains("sparse"), "{error}");
}

#[test]
fn no_prefix_of_a_file_is_accepted() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for file in ["wrapped.pth", "legacy_nested.pth"] {
        let whole = std::fs::read(folder().join(file)).unwrap();
        let path = dir.path().join(file);
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(DiskMap::open(&path).is_err(), "{file}: {len} of {} bytes", whole.len());
        }
    }
}
