//! Checkpoints of several files.

use std::path::Path;

use vram_diskmap::DiskMap;
use vram_types::{FileId, SourceErrorKind, WeightSource, WeightSourceExt};

use crate::helpers::{holds, refused, some_tensors, write};

/// Two shards and their index.
pub(crate) fn sharded(dir: &Path) -> Vec<crate::helpers::Written> {
    let tensors = some_tensors();
    write(&dir.join("model-1.safetensors"), &tensors[..3]);
    write(&dir.join("model-2.safetensors"), &tensors[3..]);
    let map: serde_json::Map<String, serde_json::Value> = tensors
        .iter()
        .enumerate()
        .map(|(i, t)| (t.0.clone(), format!("model-{}.safetensors", 1 + i / 3).replace("-3", "-2").into()))
        .collect();
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    tensors
}

#[test]
fn by_index_by_folder_and_by_list() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tensors = sharded(dir.path());
    let [one, two] = ["model-1.safetensors", "model-2.safetensors"].map(|name| dir.path().join(name));
    let index = dir.path().join("model.safetensors.index.json");
    for map in [
        DiskMap::open(&index).unwrap(),
        DiskMap::open(dir.path()).unwrap(),
        DiskMap::open_files([&one, &two]).unwrap(),
    ] {
        holds(&map, &tensors);
        assert!(map.files().eq([&one, &two].map(|path| path.to_str().unwrap())));
        assert_eq!(map.path(FileId(1)), Some(two.as_path()));
        assert_eq!(map.file_bytes(FileId(1)), Some(std::fs::metadata(&two).unwrap().len()));
        assert_eq!((map.path(FileId(2)), map.file_bytes(FileId(2))), (None, None));
        assert_eq!(map.require("ids").unwrap().storage.file, FileId(1));
        assert_eq!(map.describe(FileId(1)).as_deref(), two.to_str());
        assert_eq!(map.describe(FileId(2)), None);
    }
    std::fs::remove_file(&index).unwrap();
    holds(&DiskMap::open(dir.path()).unwrap(), &tensors);
}

#[test]
fn the_index_and_the_shards_must_agree() {
    let check =
        |spoil: &dyn Fn(&Path), kind: SourceErrorKind, tensor: Option<&str>, file: &str, says: &str| {
            let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            sharded(dir.path());
            spoil(dir.path());
            let (got, error) = refused(&DiskMap::options(), dir.path());
            assert_eq!((got, error.tensor()), (kind, tensor), "{error}");
            assert!(error.path().unwrap().ends_with(file) || file.is_empty(), "{error}");
            assert!(error.to_string().contains(says), "{error}");
        };
    let in_index = |dir: &Path, from: &str, to: &str| {
        let path = dir.join("model.safetensors.index.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(&path, text.replace(from, to)).unwrap();
    };
    use SourceErrorKind::{Invalid, NotFound};
    let gone = |dir: &Path| std::fs::remove_file(dir.join("model-2.safetensors")).unwrap();
    check(&gone, NotFound, None, "model-2.safetensors", "");
    let wrong = |dir: &Path| in_index(dir, r#""ids":"model-2"#, r#""ids":"model-1"#);
    check(
        &wrong,
        Invalid,
        Some("ids"),
        "model-2.safetensors",
        "the index says that this tensor is in \"model-1",
    );
    let unknown = |dir: &Path| in_index(dir, r#""ids":"#, r#""idz":"#);
    check(&unknown, Invalid, Some("ids"), "model-2.safetensors", "does not name");
    let extra = |dir: &Path| in_index(dir, r#""ids":"#, r#""more":"model-2.safetensors","ids":"#);
    check(&extra, Invalid, Some("more"), "model.safetensors.index.json", "does not have it");
    let second = |dir: &Path| std::fs::write(dir.join("b.index.json"), "{}").unwrap();
    check(&second, Invalid, None, "", "2 indexes");
    let twice = |dir: &Path| {
        std::fs::remove_file(dir.join("model.safetensors.index.json")).unwrap();
        std::fs::copy(dir.join("model-1.safetensors"), dir.join("z.safetensors")).unwrap();
    };
    check(
        &twice,
        Invalid,
        Some("a.bias"),
        "z.safetensors",
        "model-1.safetensors has a tensor of the same name",
    );
}

const TORCH_SHARDS: [(&str, &str); 2] =
    [("dtypes.pt", "pytorch_model-00001-of-00002.bin"), ("layouts.pt", "pytorch_model-00002-of-00002.bin")];

/// Two files of PyTorch's, named as `transformers` names them, and their index.
fn sharded_torch(dir: &Path) {
    let mut map = serde_json::Map::new();
    for (file, shard) in TORCH_SHARDS {
        let from = crate::torch::folder().join(file);
        for name in DiskMap::open(&from).unwrap().names() {
            map.insert(name.to_owned(), shard.into());
        }
        std::fs::copy(from, dir.join(shard)).unwrap();
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(dir.join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
}

#[test]
fn shards_of_pytorch_are_one_checkpoint() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    sharded_torch(dir.path());
    let index = dir.path().join("pytorch_model.bin.index.json");
    for map in [DiskMap::open(&index).unwrap(), DiskMap::open(dir.path()).unwrap()] {
        assert_eq!(map.files().len(), 2);
        let mut tensors = 0;
        for (file, _) in TORCH_SHARDS {
            let expected = crate::torch::folder().join(format!("{file}.expected.safetensors"));
            for (name, info) in DiskMap::open(&expected).unwrap().iter() {
                let right = DiskMap::open(&expected).unwrap().get(name).unwrap();
                assert!(
                    map.tensor(name).unwrap().meta() == info.meta() && map.get(name).unwrap() == right,
                    "{name}"
                );
                tensors += 1;
            }
        }
        assert_eq!(map.len(), tensors);
        // Strides of the second file are its own, behind those of the first.
        let first = map.require("square").unwrap();
        assert_eq!(first.storage.file, FileId(1));
    }
}

#[test]
fn the_index_and_pytorch_s_shards_must_agree() {
    use SourceErrorKind::{Invalid, NotFound};
    let check = |spoil: &dyn Fn(&Path, &str) -> Option<String>,
                 kind,
                 tensor: Option<&str>,
                 file: &str,
                 says: &str| {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        sharded_torch(dir.path());
        let index = dir.path().join("pytorch_model.bin.index.json");
        let text = std::fs::read_to_string(&index).unwrap();
        if let Some(spoilt) = spoil(dir.path(), &text) {
            assert_ne!(spoilt, text);
            std::fs::write(&index, spoilt).unwrap();
        }
        let (got, error) = refused(&DiskMap::options(), dir.path());
        assert_eq!((got, error.tensor()), (kind, tensor), "{error}");
        assert!(error.path().unwrap().ends_with(file) && error.to_string().contains(says), "{error}");
    };
    let [(_, one), (_, two)] = TORCH_SHARDS;
    let index = "pytorch_model.bin.index.json";
    let gone = |dir: &Path, _: &str| {
        std::fs::remove_file(dir.join(two)).unwrap();
        None
    };
    check(&gone, NotFound, None, two, "");
    let is_in_two = format!(r#""square":"{two}""#);
    let wrong = |_: &Path, text: &str| Some(text.replace(&is_in_two, &format!(r#""square":"{one}""#)));
    check(
        &wrong,
        Invalid,
        Some("square"),
        two,
        "the index says that this tensor is in \"pytorch_model-00001",
    );
    let unknown = |_: &Path, text: &str| Some(text.replace(r#""square":"#, r#""sqare":"#));
    check(&unknown, Invalid, Some("square"), two, "the index does not name this tensor");
    let extra =
        |_: &Path, text: &str| Some(text.replace(&is_in_two, &format!(r#"{is_in_two},"more":"{one}""#)));
    check(&extra, Invalid, Some("more"), index, "which does not have it");
    let twice = |_: &Path, text: &str| Some(text.replace(&is_in_two, &format!("{is_in_two},{is_in_two}")));
    check(&twice, Invalid, Some("square"), index, "twice");
    // Both files have these names, and the index cannot say both.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    sharded_torch(dir.path());
    std::fs::copy(dir.path().join(one), dir.path().join(two)).unwrap();
    let (kind, error) = refused(&DiskMap::options(), dir.path());
    assert_eq!(kind, Invalid);
    assert!(error.path().unwrap().ends_with(two) && error.message().contains("the index says"), "{error}");
    let error = DiskMap::open_files([dir.path().join(one), dir.path().join(two)]).unwrap_err();
    assert!(error.kind() == Invalid && error.message().contains("has a tensor of the same name"), "{error}");
}

#[test]
fn lenient_reads_tensors_that_the_index_does_not_name() {
    // The story: an index that was made before a buffer was added to the model, and a file that has
    // it. Every tensor is where the index says.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tensors = sharded(dir.path());
    let path = dir.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let unnamed = text.replace(r#""ids":"model-2.safetensors","#, "");
    assert_ne!(unnamed, text);
    std::fs::write(&path, unnamed).unwrap();
    let (_, error) = refused(&DiskMap::options(), &path);
    assert!(
        error.message().ends_with("the index does not name this tensor (accepted with `lenient`)"),
        "{error}"
    );
    let map = DiskMap::options().lenient(true).open(&path).unwrap();
    holds(&map, &tensors);
    assert!(map.leniencies().any(|what| what.contains("1 tensors that the index does not name")));
    // As many tensors as the index names, and not these.
    let other = text.replace(r#""ids":"#, r#""idz":"#);
    std::fs::write(&path, other).unwrap();
    let (_, error) = refused(&DiskMap::options().lenient(true), &path);
    assert!(error.tensor() == Some("idz") && error.message().contains("does not have it"), "{error}");
}
