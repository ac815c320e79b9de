//! Checkpoints of several files without an index: one file stands for the whole set, and a part is
//! never taken for all of it.

use std::path::Path;

use safetensors::tensor::Dtype;
use vram_diskmap::{DiskMap, DiskMapOptions};
use vram_types::SourceErrorKind;

use crate::helpers::{holds, noise, refused, some_tensors, write};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Three files of one checkpoint, and no index.
fn three(dir: &Path) -> Vec<crate::helpers::Written> {
    let tensors = some_tensors();
    for (i, part) in [&tensors[..2], &tensors[2..5], &tensors[5..]].iter().enumerate() {
        write(&dir.join(format!("model-{:05}-of-00003.safetensors", i + 1)), part);
    }
    tensors
}

fn lenient() -> DiskMapOptions {
    DiskMap::options().lenient(true)
}

#[test]
fn one_file_of_a_set_stands_for_all() {
    // The story: `model-00001-of-00003.safetensors` without an index was opened as a checkpoint of
    // its own, and two thirds of the tensors were "not in the checkpoint".
    let dir = folder();
    let tensors = three(dir.path());
    let path = |n: usize| dir.path().join(format!("model-{n:05}-of-00003.safetensors"));
    for name in [path(1), path(2), path(3), dir.path().to_owned()] {
        let map = DiskMap::open(&name).unwrap();
        assert_eq!(map.files().len(), 3);
        holds(&map, &tensors);
    }
    // A list is what it says.
    assert_eq!(DiskMap::open_files([path(2)]).unwrap().len(), 3);
    std::fs::remove_file(path(2)).unwrap();
    for name in [path(1), path(3), dir.path().to_owned()] {
        let (kind, error) = refused(&DiskMap::options(), &name);
        assert_eq!((kind, error.path()), (SourceErrorKind::NotFound, Some(name.as_path())));
        for part in ["model-00002-of-00003.safetensors", "a file is missing", "`lenient`"] {
            assert!(error.message().contains(part), "{error}");
        }
        let map = lenient().open(&name).unwrap();
        assert!(map.len() == 5 && map.leniencies().any(|what| what.contains("model-00002-of-00003")));
    }
}

/// A GGUF file of these keys and of tensors of one number each.
fn gguf(keys: &[(&str, u32)], tensors: &[&str]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut file = [&b"GGUF\x03\0\0\0"[..], &(tensors.len() as u64).to_le_bytes()].concat();
    file.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        file.extend([&text(key)[..], &4u32.to_le_bytes(), &value.to_le_bytes()].concat());
    }
    for (i, name) in tensors.iter().enumerate() {
        let extent = [1u32.to_le_bytes().as_slice(), &1u64.to_le_bytes(), &0u32.to_le_bytes()].concat();
        file.extend([&text(name)[..], &extent, &(32 * i as u64).to_le_bytes()].concat());
    }
    file.resize(file.len().next_multiple_of(32) + 32 * tensors.len(), 7);
    file
}

#[test]
fn splits_of_gguf_are_told_by_their_keys() {
    let part = |number, of, tensors: &[&str]| {
        gguf(&[("split.no", number), ("split.count", of), ("split.tensors.count", 3)], tensors)
    };
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("m-00001-of-00002.gguf"), part(0, 2, &["a", "b"])).unwrap();
    std::fs::write(path("m-00002-of-00002.gguf"), part(1, 2, &["c"])).unwrap();
    for name in ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", ""] {
        let map = DiskMap::open(path(name)).unwrap();
        assert_eq!((map.len(), map.files().len()), (3, 2), "{name}");
    }
    let check = |files: &[&str], kind, says: &str| {
        let error = DiskMap::open_files(files.iter().map(|name| path(name))).unwrap_err();
        assert!(error.kind() == kind && error.message().contains(says), "{says}: {error}");
    };
    use SourceErrorKind::{Invalid, NotFound};
    // A part under another name, or alone in a list, says itself that it is one.
    std::fs::copy(path("m-00002-of-00002.gguf"), path("renamed.gguf")).unwrap();
    let error = DiskMap::open(path("renamed.gguf")).unwrap_err();
    assert!(
        error.kind() == NotFound && error.message().contains("of 2 files, without \"part 1\""),
        "{error}"
    );
    check(&["m-00001-of-00002.gguf"], NotFound, "without \"part 2\"");
    let map = lenient().open_files([path("renamed.gguf")]).unwrap();
    assert!(map.len() == 1 && map.leniencies().any(|what| what.contains("part 1")));
    std::fs::write(path("other.gguf"), part(1, 2, &["d", "e"])).unwrap();
    check(&["m-00001-of-00002.gguf", "other.gguf"], Invalid, "3 tensors, its files have 4");
    std::fs::write(path("third.gguf"), part(2, 3, &["d"])).unwrap();
    check(&["m-00001-of-00002.gguf", "third.gguf"], Invalid, "part 3 of 3");
    check(&["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "other.gguf"], Invalid, "part 2 of 2");
    std::fs::write(path("none.gguf"), gguf(&[("split.count", 2)], &["d"])).unwrap();
    check(&["none.gguf"], Invalid, "split.no");
    std::fs::write(path("one.gguf"), gguf(&[("split.count", 1)], &["d"])).unwrap();
    assert_eq!(DiskMap::open(path("one.gguf")).unwrap().len(), 1);
}

#[test]
fn a_set_of_pytorch_files_needs_no_index() {
    let dir = folder();
    for (i, file) in ["dtypes.pt", "layouts.pt"].iter().enumerate() {
        let name = format!("pytorch_model-{:05}-of-00002.bin", i + 1);
        std::fs::copy(crate::torch::folder().join(file), dir.path().join(name)).unwrap();
    }
    let whole = DiskMap::open(dir.path()).unwrap();
    assert_eq!(whole.files().len(), 2);
    assert_eq!(
        DiskMap::open(dir.path().join("pytorch_model-00002-of-00002.bin")).unwrap().len(),
        whole.len()
    );
    std::fs::copy(crate::torch::folder().join("lone.pt"), dir.path().join("optimizer.pt")).unwrap();
    let (_, error) = refused(&DiskMap::options(), dir.path());
    for part in ["3 PyTorch files", "\"pytorch_model-00001-of-00002.bin\"", "\"optimizer.pt\""] {
        assert!(error.message().contains(part), "{error}");
    }
    assert!(!error.message().contains("00002-of-00002"), "{error}");
}

#[test]
fn a_folder_with_variants_says_which_there_are() {
    let dir = folder();
    let tensor = |dtype, bytes: usize| vec![("w".to_owned(), dtype, vec![4], noise(1, bytes))];
    write(&dir.path().join("model.safetensors"), &tensor(Dtype::F32, 16));
    write(&dir.path().join("model.fp16.safetensors"), &tensor(Dtype::F16, 8));
    let (kind, error) = refused(&DiskMap::options(), dir.path());
    assert_eq!((kind, error.tensor()), (SourceErrorKind::Invalid, Some("w")));
    for part in ["a folder is read as one checkpoint", "\"model.safetensors\"", "\"model.fp16.safetensors\""]
    {
        assert!(error.message().contains(part), "{error}");
    }
    for name in ["a.safetensors.index.json", "b.safetensors.index.json"] {
        std::fs::write(dir.path().join(name), "{}").unwrap();
    }
    let (_, error) = refused(&DiskMap::options(), dir.path());
    assert!(error.message().contains("open one of them: \"a.safetensors.index.json\", \"b."), "{error}");
}
