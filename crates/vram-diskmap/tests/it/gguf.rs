//! GGUF files: every type equals what the `gguf` package decodes, byte for byte.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vram_diskmap::{Conversion, DiskMap, Names};
use vram_types::{
    BlockType, DType, Encoding, FileId, Joined, Overlay, ReadOptions, ReadRequest, SourceErrorKind,
    WeightSource, WeightSourceExt,
};

use crate::torch::equals;

pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf").join(name)
}

fn expected(name: &str) -> DiskMap {
    DiskMap::open(file(&format!("{name}.expected.safetensors"))).unwrap()
}

#[test]
fn every_block_type_decodes_as_the_gguf_package_does() {
    let maps = ["blocks.gguf", "lookup.gguf"].map(|name| {
        let map = DiskMap::open(file(name)).unwrap();
        equals(&map, &expected(name), name);
        map
    });
    assert_eq!(maps[0].len() + maps[1].len(), BlockType::ALL.len());
    for block in BlockType::ALL {
        let name = format!("blk.0.{}.weight", block.name());
        let info = maps.iter().find_map(|map| map.tensor(&name)).unwrap();
        assert_eq!(
            (info.block_type(), info.dtype(), info.stored_dtype()),
            (Some(block), DType::F32, DType::F32)
        );
        assert_eq!(info.range().bytes * block.block_elements(), info.meta().elements() * block.block_bytes());
    }
}

#[test]
fn numbers_of_both_versions() {
    for name in ["numbers.gguf", "version2.gguf"] {
        equals(&DiskMap::open(file(name)).unwrap(), &expected("numbers.gguf"), name);
    }
}

#[test]
fn blocks_can_be_had_raw() {
    let path = file("blocks.gguf");
    let bytes = std::fs::read(&path).unwrap();
    let (raw, decoded) =
        (DiskMap::options().raw_blocks(true).open(&path).unwrap(), DiskMap::open(&path).unwrap());
    for (name, info) in decoded.iter() {
        let (range, got) = (info.range(), raw.get(name).unwrap());
        assert_eq!((got.meta().dtype(), got.meta().shape()[0]), (DType::U8, 3));
        assert!(got.bytes() == &bytes[range.offset as usize..range.end() as usize], "{name}");
        assert_eq!(raw.require(name).unwrap().ranges[..], [range]);
    }
}

/// Whether what `locate` says is stored decodes to what is read by name, whole and row by row.
fn encoded_is_what_is_decoded(source: &dyn WeightSource) {
    for name in source.names() {
        let located = source.require(name).unwrap();
        let (encoding, ranges) = located.stored().unwrap();
        let Encoding::Blocks(block) = encoding else { panic!("{name} is {encoding}") };
        assert!(located.ranges.is_empty() && ranges.len() == 1, "{name}");
        let shape = located.meta.shape();
        assert_eq!(encoding.bytes(shape).unwrap(), ranges[0].bytes, "{name}");
        let mut decoded = vec![0; located.meta.bytes() as usize];
        source.read_range(name, 0..located.meta.bytes(), &mut decoded).unwrap();
        let row = encoding.row_bytes(shape.last() as u64).unwrap();
        for (i, right) in decoded.chunks(shape.last() * 4).enumerate() {
            let mut stored = vec![0; row as usize];
            let request = ReadRequest::file(ranges[0].file, ranges[0].offset + i as u64 * row, &mut stored);
            source.read_many(&mut [request], &ReadOptions::BLOCKING).unwrap();
            let mut found = vec![0; right.len()];
            block.decode(&stored, &mut found).unwrap();
            assert!(found == right, "{name}: row {i}");
        }
    }
}

#[test]
fn blocks_can_be_had_decoded_by_name_and_encoded_by_range() {
    let map = DiskMap::open(file("blocks.gguf")).unwrap();
    encoded_is_what_is_decoded(&map);
    let plain: Arc<dyn WeightSource> = Arc::new(DiskMap::open(file("numbers.gguf")).unwrap());
    let blocks: Arc<dyn WeightSource> = Arc::new(map);
    let hidden = Overlay::new(Arc::clone(&plain), blocks).unwrap();
    let joined = Joined::new([("a.", plain), ("b.", Arc::new(hidden))]).unwrap();
    let of_blocks = |name: &&str| name.starts_with("b.blk");
    for name in joined.names().filter(of_blocks) {
        let located = joined.require(name).unwrap();
        let (encoding, ranges) = located.stored().unwrap();
        assert!(encoding.dtype().is_none() && ranges[0].file == located.storage.file, "{name}");
        assert_eq!(ranges[0].file, FileId(2));
    }
    assert!(joined.names().filter(of_blocks).count() >= 13);
    // Another name, and a cast, are of the same stored bytes.
    let map = DiskMap::options().dtype(DType::BF16).open(file("blocks.gguf")).unwrap();
    let renamed = map.convert(&Conversion::new().rename(Names::prefix("blk."), "layer.")).unwrap();
    let located = renamed.require("layer.0.Q4_K.weight").unwrap();
    assert_eq!((located.meta.dtype(), located.stored().unwrap().0.name()), (DType::BF16, "Q4_K"));
    let numbers = DiskMap::options().dtype(DType::BF16).open(file("numbers.gguf")).unwrap();
    let cast = numbers.names().find(|name| numbers.tensor(name).unwrap().is_converted()).unwrap();
    let (encoding, ranges) = (numbers.require(cast).unwrap(), numbers.tensor(cast).unwrap());
    let (encoding, stored) = (encoding.stored().unwrap().0, ranges.stored_dtype());
    assert_eq!(encoding, Encoding::Plain(stored));
}

#[test]
fn decoded_blocks_are_cast() {
    let path = file("blocks.gguf");
    let map = DiskMap::options().dtype(DType::BF16).open(&path).unwrap();
    let right = expected("blocks.gguf");
    for (name, info) in map.iter() {
        let stored = right.get(name).unwrap();
        let mut cast = vec![0; info.meta().bytes() as usize];
        vram_types::cast::cast_serial(stored.bytes(), DType::F32, &mut cast, DType::BF16).unwrap();
        assert!(map.get(name).unwrap().bytes() == cast, "{name}");
    }
}

#[test]
fn pairs_are_metadata() {
    let metadata = DiskMap::open(file("numbers.gguf")).unwrap().metadata(FileId(0));
    let get = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).unwrap();
    for (key, value) in [
        ("general.architecture", "test"),
        ("general.alignment", "64"),
        ("u8", "200"),
        ("i8", "-100"),
        ("u16", "60000"),
        ("i16", "-30000"),
        ("u32", "2147483648"),
        ("i32", "-5"),
        ("u64", "9223372036854775808"),
        ("i64", "-1099511627776"),
        ("f32", "0.5"),
        ("yes", "true"),
        ("text", "größer\n"),
        ("words", r#"["a","b\"c",""]"#),
        ("list", "[1,2,3]"),
    ] {
        assert_eq!(get(key), value, "{key}");
    }
    assert_eq!(get("f64").parse::<f64>().unwrap(), 1e-300);
}

#[test]
fn a_type_without_a_decoder_spoils_no_other() {
    let map = DiskMap::open(file("other.gguf")).unwrap();
    equals(&map, &expected("other.gguf"), "other.gguf");
    assert!(map.unreadable().eq([("odd", "of the type Q8_K, for which there is no decoder")]));
    let error = map.get("odd").unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("odd")));
}

#[test]
fn no_prefix_of_a_file_is_accepted() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.gguf");
    let whole = std::fs::read(file("numbers.gguf")).unwrap();
    let map = DiskMap::open(file("numbers.gguf")).unwrap();
    // What pads the last tensor is nobody's.
    let end = map.names().map(|name| map.require(name).unwrap().ranges[0].end()).max().unwrap() as usize;
    for len in 0..end {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(DiskMap::open(&path).is_err(), "{len} of {} bytes", whole.len());
    }
}

/// Changes four or eight bytes of a file and opens it.
fn spoilt(name: &str, find: &[u8], replace: &[u8]) -> vram_types::SourceError {
    let mut bytes = std::fs::read(file(name)).unwrap();
    let at = bytes.windows(find.len()).position(|w| w == find).unwrap();
    bytes[at..at + replace.len()].copy_from_slice(replace);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    DiskMap::open(&path).unwrap_err()
}

#[test]
fn malformed_files_are_refused() {
    use SourceErrorKind::{Invalid, Truncated, Unsupported};
    let check = |error: vram_types::SourceError, kind, says: &str| {
        assert!(error.kind() == kind && error.to_string().contains(says), "{says:?}: {error}");
    };
    check(spoilt("other.gguf", b"GGUF\x03\0\0\0", b"GGUF\x01\0\0\0"), Unsupported, "version 1");
    check(spoilt("other.gguf", b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03"), Unsupported, "big-endian");
    check(spoilt("other.gguf", b"before\x02\0\0\0", b"before\x05\0\0\0"), Invalid, "5 extents");
    check(spoilt("other.gguf", b"before", b"b\xFFfore"), Invalid, "UTF-8");
    check(
        spoilt("other.gguf", b"before\x02\0\0\0\x03\0\0\0\0\0\0\0", b"before\x02\0\0\0\x03\0\0\0\0\0\0\x80"),
        Invalid,
        "overflows",
    );
    check(
        spoilt("other.gguf", b"before\x02\0\0\0\x03\0\0\0\0\0\0\0", b"before\x02\0\0\0\x03\0\0\0\x01\0\0\0"),
        Truncated,
        "of which the file has",
    );
    check(
        spoilt("other.gguf", b"\x05\0\0\0\0\0\0\0after", b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFafter"),
        Truncated,
        "are to follow",
    );
    check(
        spoilt("blocks.gguf", b"Q4_0.weight\x02\0\0\0\x40", b"Q4_0.weight\x02\0\0\0\x41"),
        Invalid,
        "do not fill blocks of 32",
    );
    check(
        spoilt("numbers.gguf", b"general.alignment\x04\0\0\0\x40", b"general.alignment\x04\0\0\0\x41"),
        Invalid,
        "power of two",
    );
    check(spoilt("numbers.gguf", b"yes\x07\0\0\0\x01", b"yes\x07\0\0\0\x02"), Invalid, "no truth value");
    check(spoilt("numbers.gguf", b"yes\x07\0\0\0", b"yes\x63\0\0\0"), Invalid, "unknown type 99");
}
