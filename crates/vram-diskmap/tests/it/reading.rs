//! Single files: every way to read gives the bytes that were written.

use safetensors::Dtype;
use vram_diskmap::{DiskMap, ReadMode};
use vram_types::{
    CancelToken, DType, FileId, FileRange, ReadOptions, ReadRequest, ReadTarget, SourceErrorKind,
    WeightSource, WeightSourceExt,
};

use crate::helpers::{Written, holds, noise, some_tensors, write};

const MODES: [ReadMode; 4] = [ReadMode::Auto, ReadMode::Buffered, ReadMode::Direct, ReadMode::Uring];

fn checkpoint() -> (tempfile::TempDir, std::path::PathBuf, Vec<Written>) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("model.safetensors");
    let tensors = some_tensors();
    write(&path, &tensors);
    (dir, path, tensors)
}

/// Every mode and the memory map.
fn maps(path: &std::path::Path) -> Vec<DiskMap> {
    let mut maps: Vec<DiskMap> =
        MODES.iter().map(|&mode| DiskMap::options().read(mode).open(path).unwrap()).collect();
    // SAFETY: no test writes to the file while the map lives.
    maps.push(unsafe { DiskMap::open_mapped(path) }.unwrap());
    maps
}

#[test]
fn whole_tensors_in_every_mode() {
    let (_dir, path, tensors) = checkpoint();
    for map in maps(&path) {
        assert_eq!(map.len(), tensors.len());
        holds(&map, &tensors);
        for (name, _, _, bytes) in &tensors {
            let mut dst = vec![0; bytes.len()];
            map.read_into(name, &mut dst).unwrap();
            assert!(dst == *bytes, "{name:?}");
            assert!(map.get(name).unwrap().into_bytes() == *bytes, "{name:?}");
        }
    }
}

/// More than caches hold, from the page cache and from the map: cut by large pages, copied past the caches, into new memory.
#[test]
fn long_tensors_that_are_in_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("long.safetensors");
    let tensors = [("short", 1001), ("long", (37 << 20) + 13), ("after", (6 << 20) + 1)]
        .map(|(name, len)| (name.to_owned(), Dtype::U8, vec![len], noise(len as u64, len)));
    write(&path, &tensors);
    // SAFETY: nobody writes to the file while the map lives.
    let mapped = unsafe { DiskMap::open_mapped(&path) }.unwrap();
    for map in [DiskMap::open(&path).unwrap(), mapped] {
        let before = map.bytes_read();
        holds(&map, &tensors);
        let mut dst: Vec<Vec<u8>> = tensors.iter().map(|t| vec![0; t.3.len() + 3]).collect();
        let mut requests: Vec<_> = tensors
            .iter()
            .zip(&mut dst)
            .map(|(t, dst)| ReadRequest::tensor(&t.0, 1, &mut dst[3..][..t.3.len() - 1]))
            .collect();
        map.read_many(&mut requests, &ReadOptions::BLOCKING).unwrap();
        for ((name, _, _, bytes), dst) in tensors.iter().zip(&dst) {
            assert!(dst[3..][..bytes.len() - 1] == bytes[1..] && dst[..3] == [0; 3], "{name}");
            assert!(map.get(name).unwrap().into_bytes() == *bytes, "{name}");
        }
        let all: usize = tensors.iter().map(|t| t.3.len()).sum();
        assert!((map.bytes_read() - before) as usize >= 3 * all - 3);
    }
    let map = DiskMap::open(&path).unwrap();
    let range = map.require("long").unwrap().ranges[0];
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(range.offset + (5 << 20)).unwrap();
    let error = map.get("long").unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Truncated, Some("long")));
}

#[test]
fn names_come_in_storage_order() {
    let (_dir, path, _) = checkpoint();
    let map = DiskMap::open(&path).unwrap();
    let offsets: Vec<u64> = map.names().map(|name| map.require(name).unwrap().storage.offset).collect();
    assert!(offsets.is_sorted());
    assert!(map.names().eq(map.iter().map(|(name, _)| name)));
}

#[test]
fn opening_asks_for_the_header_and_a_tensor_for_itself() {
    let (_dir, path, _) = checkpoint();
    let header = u64::from_le_bytes(std::fs::read(&path).unwrap()[..8].try_into().unwrap());
    for map in maps(&path) {
        assert_eq!(map.bytes_read(), 8 + header);
        map.get("big").unwrap();
        assert_eq!(map.bytes_read(), 8 + header + 2_400_000);
        map.get_slice("big", &[1..3, 5..7]).unwrap();
        assert_eq!(map.bytes_read(), 8 + header + 2_400_000 + 16);
    }
}

#[test]
fn slices_along_any_extent() {
    let (_dir, path, tensors) = checkpoint();
    let ids = &tensors.iter().find(|t| t.0 == "ids").unwrap().3;
    for map in maps(&path) {
        for (a, b, c) in [
            (0..3, 0..5, 0..7),
            (1..2, 0..5, 0..7),
            (0..3, 2..4, 0..7),
            (0..3, 0..5, 3..4),
            (1..3, 1..5, 2..6),
            (2..2, 0..5, 0..7),
        ] {
            let mut expected = Vec::new();
            for i in a.clone() {
                for j in b.clone() {
                    for k in c.clone() {
                        let at = ((i * 5 + j) * 7 + k) * 8;
                        expected.extend_from_slice(&ids[at..at + 8]);
                    }
                }
            }
            let got = map.get_slice("ids", &[a.clone(), b.clone(), c.clone()]).unwrap();
            assert_eq!(got.meta().shape().dims(), [a.len(), b.len(), c.len()]);
            assert!(got.bytes() == expected, "{a:?} {b:?} {c:?}");
        }
        let big = &tensors.iter().find(|t| t.0 == "big").unwrap().3;
        let rows = map.get_slice("big", &[100..500]).unwrap();
        assert!(rows.bytes() == &big[100 * 4000..500 * 4000]);
        let column: Vec<u8> = (0..600).flat_map(|r| big[r * 4000 + 36..r * 4000 + 40].to_vec()).collect();
        assert!(map.get_slice("big", &[0..600, 9..10]).unwrap().bytes() == column);
    }
}

#[test]
fn requests_widen_only_into_their_slack() {
    let (_dir, path, _) = checkpoint();
    let file = std::fs::read(&path).unwrap();
    for map in maps(&path) {
        let located = map.require("big").unwrap();
        let align = map.direct_alignment();
        for (skip, bytes, slack_before, slack_after) in [
            (0, 2_400_000, 8192, 8192),
            (4, 1_000_000, 0, 8192),
            (4, 999_999, 8192, 0),
            (1, 300_000, 5, 3),
            (0, 2_400_000, 0, 0),
        ] {
            let offset = located.storage.offset + skip;
            // A guard on both sides of the buffer shows a write outside it.
            let mut memory = vec![0xAA; bytes + slack_before + slack_after + 4 * align];
            let base = memory.as_ptr() as usize;
            let start = align + (offset as usize + 2 * align - base % align - slack_before % align) % align;
            let dst = &mut memory[start..start + slack_before + bytes + slack_after];
            let target = ReadTarget::File { file: FileId(0), offset };
            let request = ReadRequest { target, bytes: bytes as u64, dst, at: slack_before };
            map.read_many(&mut [request], &ReadOptions::BLOCKING).unwrap();
            let got = &memory[start + slack_before..][..bytes];
            assert!(got == &file[offset as usize..offset as usize + bytes]);
            assert!(memory[..start].iter().all(|&b| b == 0xAA));
            assert!(memory[start + slack_before + bytes + slack_after..].iter().all(|&b| b == 0xAA));
        }
    }
}

#[test]
fn requests_out_of_range_and_cancelled() {
    let (_dir, path, _) = checkpoint();
    for map in maps(&path) {
        let kind = |target, len: usize| {
            let mut dst = vec![0; len];
            let request = ReadRequest { target, bytes: len as u64, dst: &mut dst, at: 0 };
            map.read_many(&mut [request], &ReadOptions::BLOCKING).map_err(|e| e.kind())
        };
        let end = std::fs::metadata(&path).unwrap().len();
        assert_eq!(kind(ReadTarget::File { file: FileId(0), offset: end }, 0), Ok(()));
        assert_eq!(
            kind(ReadTarget::File { file: FileId(0), offset: end - 1 }, 2),
            Err(SourceErrorKind::OutOfRange)
        );
        assert_eq!(
            kind(ReadTarget::File { file: FileId(0), offset: u64::MAX }, 2),
            Err(SourceErrorKind::OutOfRange)
        );
        assert_eq!(kind(ReadTarget::File { file: FileId(1), offset: 0 }, 1), Err(SourceErrorKind::NotFound));
        assert_eq!(
            kind(ReadTarget::Tensor { name: "a.bias", offset: 250 }, 7),
            Err(SourceErrorKind::OutOfRange)
        );
        assert_eq!(kind(ReadTarget::Tensor { name: "nobody", offset: 0 }, 1), Err(SourceErrorKind::NotFound));
        let cancel = CancelToken::new();
        cancel.cancel();
        let mut dst = [0; 4];
        let request = ReadRequest::tensor("scalar", 0, &mut dst);
        let error = map.read_many(&mut [request], &ReadOptions::default().with_cancel(&cancel)).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Cancelled);
        let error = map.get("nobody").unwrap_err();
        assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::NotFound, Some("nobody")));
        assert_eq!(map.read_into("scalar", &mut [0; 5]).unwrap_err().kind(), SourceErrorKind::OutOfRange);
    }
}

#[test]
fn windows_of_the_map() {
    let (_dir, path, tensors) = checkpoint();
    // SAFETY: nobody writes to the file while the map lives.
    let map = unsafe { DiskMap::open_mapped(&path) }.unwrap();
    for (name, _, _, bytes) in &tensors {
        let range = map.require(name).unwrap().ranges[0];
        let window = map.map(range).unwrap().unwrap();
        window.prefault().unwrap();
        assert!(window.bytes() == bytes, "{name:?}");
        // A neighbour that shares pages is dropped meanwhile.
        drop(map.map(range).unwrap().unwrap());
        assert!(window.bytes() == bytes, "{name:?}");
    }
    let outside = FileRange { file: FileId(0), offset: u64::MAX, bytes: 2 };
    assert_eq!(map.map(outside).unwrap().err().map(|e| e.kind()), Some(SourceErrorKind::OutOfRange));
    assert!(DiskMap::open(&path).unwrap().map(outside).is_none());
}

#[test]
fn conversion_while_reading() {
    let (_dir, path, tensors) = checkpoint();
    let error = DiskMap::options().dtype(DType::F32).open(&path).map(drop);
    if let Err(e) = error {
        assert_eq!((e.kind(), e.tensor()), (SourceErrorKind::Unsupported, Some("half bytes")));
    }
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    write(&path, &tensors[..7]);
    let plain = DiskMap::open(&path).unwrap();
    for to in [DType::F32, DType::BF16, DType::F16] {
        let map = DiskMap::options().dtype(to).open(&path).unwrap();
        assert_eq!(map.get("ids").unwrap(), plain.get("ids").unwrap());
        for name in ["a.weight", "a.bias", "scalar", "empty", "big"] {
            let stored = plain.get(name).unwrap();
            let info = map.tensor(name).unwrap();
            assert_eq!((info.dtype(), info.stored_dtype()), (to, stored.meta().dtype()));
            let mut expected = vec![0; info.meta().bytes() as usize];
            vram_types::cast::cast_serial(stored.bytes(), stored.meta().dtype(), &mut expected, to).unwrap();
            assert!(map.get(name).unwrap().bytes() == expected, "{name} as {to}");
            let located = map.require(name).unwrap();
            assert_eq!(located.ranges.is_empty(), stored.meta().dtype() != to);
            // Any range of bytes, aligned to elements or not.
            for (from, to) in [
                (0, expected.len()),
                (1, expected.len()),
                (3, expected.len().saturating_sub(1)),
                (262_143, 786_434),
            ] {
                if from <= to && to <= expected.len() {
                    let mut part = vec![0; to - from];
                    map.read_range(name, from as u64..to as u64, &mut part).unwrap();
                    assert!(part == expected[from..to], "{name}: {from}..{to}");
                }
            }
        }
        let slice = map.get_slice("big", &[3..5, 10..20]).unwrap();
        assert_eq!((slice.meta().dtype(), slice.meta().elements()), (to, 20));
    }
}

#[test]
fn a_file_that_changes_is_an_error_and_never_zeros() {
    for mode in MODES {
        let (_dir, path, tensors) = checkpoint();
        let map = DiskMap::options().read(mode).open(&path).unwrap();
        let big = map.tensor("big").unwrap().range();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(big.offset + 500_000).unwrap();
        let error = map.get("big").unwrap_err();
        assert_eq!(
            (error.kind(), error.tensor()),
            (SourceErrorKind::Truncated, Some("big")),
            "{mode:?}: {error}"
        );
        assert_eq!(error.path(), Some(path.as_path()));
        // Written anew with other bytes of the same length.
        let other: Vec<Written> =
            tensors.iter().map(|(n, d, s, b)| (n.clone(), *d, s.clone(), noise(99, b.len()))).collect();
        write(&path, &other);
        let error = map.get("a.bias").unwrap_err();
        assert_eq!(
            (error.kind(), error.tensor()),
            (SourceErrorKind::Invalid, Some("a.bias")),
            "{mode:?}: {error}"
        );
        assert!(error.message().contains("changed"), "{error}");
    }
}

#[test]
fn a_file_that_is_replaced_goes_on_being_read_as_it_was() {
    let (dir, path, tensors) = checkpoint();
    let map = DiskMap::open(&path).unwrap();
    let other = dir.path().join("new");
    write(&other, &tensors[..1]);
    std::fs::rename(&other, &path).unwrap();
    holds(&map, &tensors);
}

#[test]
fn many_threads_share_one_map() {
    let (_dir, path, tensors) = checkpoint();
    for map in maps(&path) {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| holds(&map, &tensors));
            }
        });
    }
}
