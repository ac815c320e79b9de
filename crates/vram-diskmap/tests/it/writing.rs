//! What is written, the format's own crate reads.

use safetensors::SafeTensors;
use vram_diskmap::{DiskMap, Extract, SafetensorsWriter, extract, inspect};
use vram_types::{CancelToken, DType, SourceErrorKind, TensorMeta, WeightSource};

use crate::helpers::{some_tensors, write};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn entries(dir: &tempfile::TempDir) -> usize {
    std::fs::read_dir(dir.path()).unwrap().count()
}

#[test]
fn the_oracle_reads_what_is_written() {
    let dir = folder();
    let path = dir.path().join("out.safetensors");
    let tensors = some_tensors();
    let declared = tensors.iter().map(|(name, dtype, shape, _)| {
        let dtype: DType = format!("{dtype:?}").parse().unwrap();
        (name.clone(), TensorMeta::new(dtype, shape.as_slice()).unwrap())
    });
    let metadata = [("format".to_owned(), "pt".to_owned()), ("line\n\"".to_owned(), "\u{1}\\".to_owned())];
    let mut writer = SafetensorsWriter::create(&path, declared, &metadata).unwrap().sync(true);
    let all: Vec<u8> = tensors.iter().flat_map(|t| t.3.iter().copied()).collect();
    for piece in all.chunks(1_000_003) {
        writer.write(piece).unwrap();
    }
    assert_eq!(writer.write(&[0]).unwrap_err().kind(), SourceErrorKind::OutOfRange);
    writer.finish().unwrap();
    assert_eq!(entries(&dir), 1);

    let file = std::fs::read(&path).unwrap();
    let oracle = SafeTensors::deserialize(&file).unwrap();
    for (name, dtype, shape, bytes) in &tensors {
        let view = oracle.tensor(name).unwrap();
        assert_eq!((view.dtype(), view.shape()), (*dtype, shape.as_slice()));
        assert!(view.data() == bytes);
    }
    let (header, read) = SafeTensors::read_metadata(&file).unwrap();
    assert_eq!((8 + header) % 4096, 0);
    assert_eq!(read.metadata().as_ref().unwrap()["line\n\""], "\u{1}\\");
    let map = DiskMap::open(&path).unwrap();
    assert!(map.names().eq(tensors.iter().map(|t| t.0.as_str())));
    assert_eq!(map.metadata(vram_types::FileId(0)), metadata);
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let dir = folder();
    let path = dir.path().join("out.safetensors");
    std::fs::write(&path, "the one before").unwrap();
    let meta = TensorMeta::new(DType::U8, [10]).unwrap();
    let tensors = [("a", meta.clone()), ("b", meta.clone())];
    let mut writer = SafetensorsWriter::create(&path, tensors.clone(), &[]).unwrap();
    writer.write(&[1; 12]).unwrap();
    let error = writer.finish().unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Truncated, Some("b")));
    drop(SafetensorsWriter::create(&path, tensors, &[]).unwrap());
    assert_eq!(entries(&dir), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "the one before");

    let twice =
        SafetensorsWriter::create(&path, [("a", meta.clone()), ("a", meta.clone())], &[]).unwrap_err();
    assert_eq!((twice.kind(), twice.tensor()), (SourceErrorKind::Invalid, Some("a")));
    let metadata = SafetensorsWriter::create(&path, [("__metadata__", meta)], &[]).unwrap_err();
    assert_eq!(metadata.kind(), SourceErrorKind::Invalid);
    SafetensorsWriter::create::<&str>(&path, [], &[]).unwrap().finish().unwrap();
    assert!(DiskMap::open(&path).unwrap().is_empty());
}

#[test]
fn extracting_copies_and_casts() {
    let dir = folder();
    let path = dir.path().join("in.safetensors");
    let mut tensors = some_tensors();
    let big = crate::helpers::noise(5, 5_000_000 * 2);
    tensors.push(("longer than a piece".to_owned(), safetensors::Dtype::F16, vec![5_000_000], big));
    write(&path, &tensors);
    let map = DiskMap::open(&path).unwrap();
    let out = dir.path().join("out.safetensors");
    let names = ["ids", "big", "a.weight", "empty", "longer than a piece"];
    let mut seen = Vec::new();
    let bytes = extract(&map, &names, Some(DType::BF16), &out, &CancelToken::new(), &mut |p| {
        seen.push((p.tensor.to_owned(), p.bytes_done, p.bytes_total));
    })
    .unwrap();
    assert_eq!(seen.last().map(|last| (last.1, last.2)), Some((bytes, bytes)));
    let got = DiskMap::open(&out).unwrap();
    assert!(got.names().eq(names));
    let whole_bytes = dir.path().join("whole bytes.safetensors");
    tensors.retain(|t| t.0 != "half bytes");
    write(&whole_bytes, &tensors);
    let casting = DiskMap::options().dtype(DType::BF16).open(&whole_bytes).unwrap();
    for name in names {
        let (got, expected) = (got.get(name).unwrap(), casting.get(name).unwrap());
        assert_eq!(got.meta(), expected.meta());
        assert!(got.bytes() == expected.bytes(), "{name}");
    }
    let none = extract(&map, &["nobody"], None, &out, &CancelToken::new(), &mut |_| {}).unwrap_err();
    assert_eq!((none.kind(), none.tensor()), (SourceErrorKind::NotFound, Some("nobody")));
    let cancel = CancelToken::new();
    let cancelled = extract(&map, &names, None, &out, &cancel, &mut |_| cancel.cancel()).unwrap_err();
    assert_eq!(cancelled.kind(), SourceErrorKind::Cancelled);
    assert_eq!(DiskMap::open(&out).unwrap().len(), names.len());
}

#[test]
fn inspection_lists_and_sums() {
    let dir = folder();
    let path = dir.path().join("in.safetensors");
    let tensors = some_tensors();
    write(&path, &tensors);
    let map = DiskMap::open(&path).unwrap();
    let read = map.bytes_read();
    let found = inspect(&map);
    assert_eq!(map.bytes_read(), read);
    assert_eq!(found.bytes, tensors.iter().map(|t| t.3.len() as u64).sum::<u64>());
    assert_eq!(found.tensors.len(), tensors.len());
    assert_eq!(found.tensors[0].file.as_deref(), path.to_str());
    assert_eq!(found.tensors[0].offset, Some(map.tensor(&found.tensors[0].name).unwrap().range().offset));
    let f32 = found.by_dtype.iter().find(|t| t.dtype == DType::F32).unwrap();
    assert_eq!((f32.tensors, f32.elements, f32.bytes), (4, 600_065, 2_400_260));
}

#[test]
fn shards_have_an_index_and_hold_everything_once() {
    let dir = folder();
    let path = dir.path().join("in.safetensors");
    let tensors = some_tensors();
    write(&path, &tensors);
    let map = DiskMap::open(&path).unwrap();
    let out = dir.path().join("out.safetensors");
    let metadata = [("format".to_owned(), "pt".to_owned())];
    for (most, files) in [(1, 7), (8192, 3), (1 << 30, 1)] {
        let copy = Extract::new(&map).metadata(metadata.clone()).shard_bytes(most).threads(3);
        let done = copy.run(&out, &CancelToken::new(), &mut |_| {}).unwrap();
        assert_eq!((done.files.len(), done.tensors), (files, tensors.len()), "{most}: {done:?}");
        assert_eq!(copy.files(&out).unwrap(), done.files);
        let got = DiskMap::open(&done.output).unwrap();
        crate::helpers::holds(&got, &tensors);
        assert_eq!(got.metadata(vram_types::FileId(0)), metadata);
        done.files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    }
}

#[test]
fn a_changed_byte_is_found_by_its_checksum() {
    let dir = folder();
    let path = dir.path().join("in.safetensors");
    let tensors = some_tensors();
    write(&path, &tensors);
    let out = dir.path().join("out.safetensors");
    let map = DiskMap::open(&path).unwrap();
    assert!(!map.has_checksum("big"));
    assert_eq!(map.verify(&CancelToken::new()).unwrap(), 0);
    Extract::new(&map).checksums(true).run(&out, &CancelToken::new(), &mut |_| {}).unwrap();
    let copy = DiskMap::open(&out).unwrap();
    crate::helpers::holds(&copy, &tensors);
    let filled = tensors.iter().filter(|t| !t.3.is_empty()).count();
    assert_eq!(copy.verify(&CancelToken::new()).unwrap(), filled);
    // Of a copy of the copy there are none, unless asked for.
    let metadata = copy.metadata(vram_types::FileId(0));
    let again = dir.path().join("again.safetensors");
    Extract::new(&copy).metadata(metadata).run(&again, &CancelToken::new(), &mut |_| {}).unwrap();
    assert_eq!(DiskMap::open(&again).unwrap().verify(&CancelToken::new()).unwrap(), 0);
    for name in ["big", "scalar", "half bytes"] {
        let range = copy.tensor(name).unwrap().range();
        let mut bytes = std::fs::read(&out).unwrap();
        bytes[range.offset as usize + range.bytes as usize / 2] ^= 1;
        let spoilt = dir.path().join("spoilt.safetensors");
        std::fs::write(&spoilt, bytes).unwrap();
        let map = DiskMap::open(&spoilt).unwrap();
        let error = map.verify(&CancelToken::new()).unwrap_err();
        assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Invalid, Some(name)), "{error}");
        assert!(map.verify_tensors([name], &CancelToken::new()).is_err());
        assert_eq!(map.verify_tensors(["ids", "a.bias"], &CancelToken::new()).unwrap(), 2);
        assert!(map.verify_tensors(["nobody"], &CancelToken::new()).is_err());
    }
}
