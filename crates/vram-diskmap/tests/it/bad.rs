//! Every malformed file is refused with its own typed error and within bounded memory.

use std::path::{Path, PathBuf};

use vram_diskmap::DiskMap;

use crate::counting::{allowed, peak};
use crate::helpers::serialized;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad")
}

/// Bytes of all files below a path.
fn size(path: &Path) -> usize {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().map(|entry| size(&entry.unwrap().path())).sum();
    }
    path.metadata().unwrap().len() as usize
}

#[test]
fn every_malformed_file_is_refused_as_the_manifest_says() {
    let manifest = std::fs::read_to_string(folder().join("manifest.txt")).unwrap();
    let rows: Vec<Vec<&str>> =
        manifest.lines().filter(|l| !l.starts_with('#')).map(|l| l.split(" | ").collect()).collect();
    let on_disk = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "safetensors"))
        .count();
    assert_eq!(rows.len(), on_disk, "manifest.txt and the folder differ");
    assert!(rows.len() >= 40);
    let mut wrong = Vec::new();
    for row in rows {
        let &[name, kind, tensor, says, _what] = row.as_slice() else { panic!("{row:?}") };
        let path = folder().join(name);
        let (result, held) = peak(|| DiskMap::open(&path));
        let bound = allowed(size(&path));
        match result {
            Ok(map) => wrong.push(format!("{name}: accepted as {map:?}")),
            Err(e) => {
                let right = format!("{:?}", e.kind()) == kind
                    && e.tensor() == (tensor != "-").then_some(tensor)
                    && e.path().is_some_and(|p| p.starts_with(&path))
                    && e.message().contains(says);
                if !right || held > bound {
                    wrong.push(format!("{name}: {kind} {tensor} {says:?} expected, holding {held} of {bound} bytes: {e:?} {:?}", e.kind()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_truncated_header_cannot_claim_memory() {
    // The story: a file of a few bytes whose length field says 99 MB. The bytes must exist before they get memory.
    let path = folder().join("length-99-million.safetensors");
    let (result, held) = peak(|| DiskMap::open(path));
    assert!(result.is_err());
    assert!(held < 64 << 10, "{held}");
}

#[test]
fn memory_stays_bounded_for_headers_of_the_worst_proportions() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let many = |n: usize, item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(",");
    let headers = [
        // The shortest tensors there are.
        format!(
            "{{{}}}",
            many(20_000, &|i| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        ),
        // One tensor of a huge rank.
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[{}],"data_offsets":[0,0]}}}}"#,
            many(300_000, &|_| "0".to_owned())
        ),
        // Metadata of the shortest pairs.
        format!(r#"{{"__metadata__":{{{}}}}}"#, many(50_000, &|i| format!(r#""{i:x}":"""#))),
        // A name that is nothing but escapes, and one that is all there is.
        format!(r#"{{"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#, "\\n".repeat(100_000)),
        format!(r#"{{"{}":7}}"#, "x".repeat(300_000)),
        format!(r#"{{"a":{{"{}":7}}}}"#, "x".repeat(300_000)),
        format!(r#"{{"a":{{"dtype":"{}"}}}}"#, "\\u0001".repeat(50_000)),
    ];
    for (i, header) in headers.iter().enumerate() {
        let path = dir.path().join("m.safetensors");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        std::fs::write(&path, file).unwrap();
        let (result, held) = peak(|| DiskMap::open(&path));
        assert_eq!(result.is_ok(), i < 4, "{i}: {result:?}");
        assert!(held <= allowed(header.len()), "{i}: {held} bytes for a header of {}", header.len());
    }
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, many(50_000, &|i| format!(r#""{i:x}":"{i:x}""#)));
    let path = dir.path().join("a.index.json");
    std::fs::write(&path, &index).unwrap();
    let (result, held) = peak(|| DiskMap::open(&path));
    assert!(result.is_err());
    assert!(held <= allowed(index.len()), "{held} bytes for an index of {}", index.len());
}

#[test]
fn no_prefix_of_a_file_is_accepted() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let mut tensors = crate::helpers::some_tensors();
    tensors.retain(|t| t.3.len() < 1000);
    let whole = serialized(&tensors);
    for len in 0..whole.len() {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(DiskMap::open(&path).is_err(), "{len} of {} bytes", whole.len());
    }
}

#[test]
fn what_lenient_lets_pass_says_so_and_nothing_else_does() {
    // The story: real files with a hole, a blank or a field too many were refused without a word on
    // the option that reads them.
    for entry in std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        let Err(error) = DiskMap::open(&entry) else { continue };
        let opened = DiskMap::options().lenient(true).open(&entry);
        let says = error.message().contains("(accepted with `lenient`)");
        match opened {
            Ok(map) => {
                assert!(says, "{}: {error}", entry.display());
                assert!(map.leniencies().len() > 0, "{}", entry.display());
                let strict = error.message().contains("index");
                assert!(strict || map.iter().all(|(name, _)| map.get(name).is_ok()), "{}", entry.display());
            }
            Err(e) => assert!(!says || e.message() != error.message(), "{}: {error}, {e}", entry.display()),
        }
    }
    let file = |json: &str, data: usize| {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json.as_bytes());
        file.resize(file.len() + data, 7);
        file
    };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.safetensors");
    let a = r#""a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]"#;
    for (json, data, notes) in [
        (format!(r#"{{"__metadata__":null,{a}}}}}"#), 2, "a __metadata__ that is null"),
        (format!(r#"{{{a},"extra":{{"x":[1,null]}}}}}}"#), 2, "1 fields of tensors"),
        (format!(r#"  {{{a}}}}}"#), 2, "2 blanks"),
        (format!("{{{a}}}}}\n\0"), 2, "bytes other than spaces"),
        (format!("{{{a}}}}}"), 5, "3 bytes of the data"),
    ] {
        std::fs::write(&path, file(&json, data)).unwrap();
        let error = DiskMap::open(&path).unwrap_err();
        assert!(error.message().ends_with("(accepted with `lenient`)"), "{json}: {error}");
        let map = DiskMap::options().lenient(true).open(&path).unwrap();
        assert_eq!(map.get("a").unwrap().bytes(), [7, 7], "{json}");
        assert!(map.leniencies().any(|what| what.contains(notes)), "{json}");
    }
    // A known field twice, or one of nothing, is what it was.
    for json in [format!(r#"{{{a},"dtype":"U8"}}}}"#), r#"{"a":{"extra":1}}"#.to_owned()] {
        std::fs::write(&path, file(&json, 2)).unwrap();
        assert!(DiskMap::options().lenient(true).open(&path).is_err(), "{json}");
    }
}
