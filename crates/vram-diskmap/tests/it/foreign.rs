//! Weights among the objects that real checkpoints have beside them: callbacks, hyperparameters,
//! arrays, paths.

use vram_diskmap::{DiskMap, ReadMode};
use vram_types::{FileId, SourceErrorKind};

use crate::torch::folder;

/// What `foreign.py` has put into each of its files.
fn expected() -> Vec<(&'static str, &'static str, Vec<usize>, Vec<u8>)> {
    let floats = |numbers: &[f32]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let shorts = |numbers: &[i16]| numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    vec![
        ("big", "F32", vec![2], floats(&[1.5, -2.5])),
        ("flags", "BOOL", vec![2], vec![1, 0]),
        ("fortran", "I16", vec![2, 3], shorts(&[0, 1, 2, 3, 4, 5])),
        ("grid", "U8", vec![], vec![7]),
        ("half", "F16", vec![1], vec![0, 0x38]),
        ("range", "U32", vec![64], (0..=255).collect()),
        ("state_dict.bias", "F32", vec![3], floats(&[5.0, 6.0, 7.0])),
        ("state_dict.weight", "F32", vec![2], floats(&[1.0, 2.0])),
        ("table.None", "F32", vec![1], floats(&[8.0])),
    ]
}

#[test]
fn one_foreign_object_loses_nothing_else() {
    // The story: a checkpoint of a training framework is refused for one callback, one Namespace or
    // one NumPy number in it, although its weights are as plain as any.
    // Older files of pickle protocols from 3 on begin with other bytes, and were read as safetensors.
    let files = ["foreign.pt", "foreign4.pt", "foreign5.pt", "legacy3.pt", "legacy4.pt", "legacy5.pt"];
    for (file, keyword) in files.map(|file| (file, !["foreign.pt", "legacy3.pt"].contains(&file))) {
        for mode in [ReadMode::Auto, ReadMode::Direct] {
            let map = DiskMap::options().read(mode).open(folder().join(file)).unwrap();
            let mut names: Vec<&str> = map.iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            assert_eq!(names, expected().iter().map(|e| e.0).collect::<Vec<_>>(), "{file}");
            for (name, dtype, shape, bytes) in expected() {
                let tensor = map.get(name).unwrap();
                assert_eq!(tensor.meta().dtype().name(), dtype, "{file}: {name}");
                assert_eq!(tensor.meta().shape().dims(), shape, "{file}: {name}");
                assert_eq!(tensor.bytes(), bytes, "{file}: {name}");
            }
        }
        let map = DiskMap::open(folder().join(file)).unwrap();
        let unread: Vec<(&str, &str)> = map.unread().collect();
        let mut expected = vec![
            ("callbacks.0", "an object of \"lightning.callbacks.Callback\", with a tensor inside"),
            ("callbacks.1.state", "an object of \"lightning.callbacks.ConfigDict\", with a tensor inside"),
            ("hyper_parameters", "an object of \"argparse.Namespace\""),
            ("texts", "a NumPy array of text, objects or fields"),
            ("objects", "a NumPy array of text, objects or fields"),
            ("decimal", "an object of \"decimal.Decimal\""),
            ("table", "an entry whose key is an object of \"lightning.callbacks.Key\", with a tensor inside"),
            ("path", "an object of \"pathlib.PurePosixPath\""),
            ("ints.0", "a whole number of 11 bytes"),
            ("mixed.1", "the name \"lightning.callbacks.Callback\""),
        ];
        if keyword {
            expected.push(("keyword", "an object of \"lightning.callbacks.Keyword\", with a tensor inside"));
        }
        assert_eq!(unread, expected, "{file}");
        let unreadable: Vec<(&str, &str)> = map.unreadable().collect();
        assert_eq!(
            unreadable,
            [
                ("wide", "a NumPy array of a dtype that PyTorch has not"),
                ("sub", "made with \"lightning.callbacks.Sub\", which is unknown here"),
            ]
        );
        let error = map.get("sub").unwrap_err();
        assert_eq!((error.kind(), error.tensor()), (SourceErrorKind::Unsupported, Some("sub")));
        let metadata = map.metadata(FileId(0));
        let get = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!((get("lr"), get("steps"), get("ok")), (Some("0.25"), Some("-7"), Some("True")), "{file}");
        assert_eq!((get("swapped"), get("set"), get("frozen")), (Some("3.5"), Some("[1,2]"), Some("[3]")));
        assert_eq!(
            (get("table.(1, 'a')"), get("table.1.5"), get("table.b'k'")),
            (Some("5"), Some("x"), Some("2"))
        );
        assert_eq!((get("counter.a"), get("default.a"), get("mixed.0")), (Some("2"), Some("1"), Some("1")));
    }
}

#[test]
fn arrays_that_are_spelt_as_text_lie_in_memory_beside_their_file() {
    let map = DiskMap::open_files([folder().join("foreign.pt"), folder().join("list.pt")]).unwrap();
    // The array with a byte above 127, which two bytes stand for in the file.
    let range = map.tensor("range").unwrap().range();
    assert_eq!((range.file, map.path(range.file)), (FileId(1), None));
    let names: Vec<String> = map.files().map(|name| name.into_owned()).collect();
    assert!(names[1].ends_with("foreign.pt (arrays of its pickle)"), "{names:?}");
    // Files behind it keep their numbers.
    let zero = map.tensor("0").unwrap().range();
    assert_eq!((zero.file, names.len()), (FileId(2), 3));
    assert!(map.path(zero.file).unwrap().ends_with("list.pt"));
    assert!(map.metadata(FileId(1)).is_empty() && map.metadata(FileId(0)).len() > 5);
}

#[test]
fn a_module_that_was_saved_whole_is_refused_with_what_to_do() {
    let error = DiskMap::open(folder().join("whole.pt")).unwrap_err();
    assert_eq!(error.kind(), SourceErrorKind::Unsupported);
    for part in ["lightning.callbacks.Callback", "2 tensors inside", "state_dict()"] {
        assert!(error.message().contains(part), "{error}");
    }
}
