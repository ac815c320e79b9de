//! Rules in TOML: the example of the documentation, and what is said of files that are none.

use std::path::Path;

use vram_diskmap::{Conversion, ConversionErrorKind, DiskMap};
use vram_types::{DType, TensorMeta};

/// The block of TOML in `docs/formats.md`.
fn example() -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {} is not here (a packaged crate)", path.display());
        return None;
    };
    let (_, block) = text.split_once("```toml\n").unwrap();
    Some(block.split_once("```").unwrap().0.to_owned())
}

fn checkpoint(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let tensors: [(&str, DType, &[usize]); 13] = [
        ("model.0.qkv.weight", DType::F32, &[6, 4]),
        ("model.0.qkv.bias", DType::F32, &[6]),
        ("model.0.bn.num_batches_tracked", DType::I64, &[]),
        ("model.0.gate.weight", DType::F32, &[3, 4]),
        ("model.0.up.weight", DType::F32, &[5, 4]),
        ("model.ids", DType::I64, &[7]),
        ("norm_in", DType::F32, &[2]),
        ("norm_out", DType::F32, &[3]),
        ("proj", DType::F32, &[2, 6]),
        ("head", DType::F32, &[5, 7]),
        ("patch.weight", DType::F32, &[8, 3, 2, 2]),
        ("embed", DType::F32, &[16, 4]),
        ("rest", DType::F32, &[1]),
    ];
    let path = dir.path().join("m.safetensors");
    let meta = |dtype, shape: &[usize]| TensorMeta::new(dtype, shape).unwrap();
    let declared = tensors.iter().map(|&(name, dtype, shape)| (name, meta(dtype, shape)));
    let mut writer = vram_diskmap::SafetensorsWriter::create(&path, declared, &[]).unwrap();
    for (_, dtype, shape) in tensors {
        writer.write(&crate::helpers::noise(1, meta(dtype, shape).bytes() as usize)).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[test]
fn the_example_in_the_documentation_does_what_it_says() {
    let Some(text) = example() else { return };
    let every = [
        "rename",
        "rename_map",
        "drop",
        "split",
        "concat",
        "transpose",
        "reshape",
        "slice",
        "copy",
        "cast",
        "keep",
    ];
    assert!(every.iter().all(|rule| text.contains(&format!("[[rule]]\n{rule} = "))));
    let dir = folder();
    let path = checkpoint(&dir);
    let converted = DiskMap::open(&path).unwrap().convert(&Conversion::from_toml(&text).unwrap()).unwrap();
    let mut made: Vec<String> = converted
        .iter()
        .map(|(name, located)| format!("{name} {} {}", located.meta.dtype(), located.meta.shape()))
        .collect();
    made.sort();
    assert_eq!(
        made,
        [
            "encoder.0.gate_up.weight BF16 [8, 4]",
            "encoder.0.k.bias BF16 [2]",
            "encoder.0.k.weight BF16 [2, 4]",
            "encoder.0.q.bias BF16 [2]",
            "encoder.0.q.weight BF16 [2, 4]",
            "encoder.0.v.bias BF16 [2]",
            "encoder.0.v.weight BF16 [2, 4]",
            "encoder.ids I64 [7]",
            "head F32 [7, 5]",
            "head.tied F32 [10, 4]",
            "norm_in F32 [3]",
            "norm_out F32 [2]",
            "patch.weight F32 [8, 12]",
            "proj.left F32 [2, 4]",
            "proj.right F32 [2, 2]",
        ]
    );
    let plain = DiskMap::open(&path).unwrap();
    assert!(converted.get("norm_in").unwrap() == plain.get("norm_out").unwrap());
    assert!(converted.get("proj.right").unwrap() == plain.get_slice("proj", &[0..2, 4..6]).unwrap());
    assert!(converted.get("head.tied").unwrap() == plain.get_slice("embed", &[0..10]).unwrap());
}

#[test]
fn what_is_wrong_is_said_with_file_line_and_rule() {
    let dir = folder();
    let path = checkpoint(&dir);
    let rules = dir.path().join("rules.toml");
    let first = "# a comment\n[[rule]]\ndrop = { tensors = 'rest' }\n\n";
    let mut unlike = Vec::new();
    let mut check = |second: &str, kind, line, rule: Option<usize>, says: &str| {
        std::fs::write(&rules, format!("{first}{second}")).unwrap();
        let error = match Conversion::read_toml(&rules) {
            Ok(conversion) => DiskMap::open(&path).unwrap().convert(&conversion).unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(error.path(), Some(rules.as_path()));
        let text = error.to_string();
        let as_expected = (error.kind(), error.line(), error.rule()) == (kind, Some(line), rule);
        if !as_expected || !text.contains(says) || text.contains('\n') {
            unlike.push(format!("{second}: {error:?}, expected line {line}, {rule:?}, {says:?}"));
        }
    };
    use ConversionErrorKind::{Invalid, NotFound, Shape};
    check(
        "[[rule]]\nsplt = { tensors = 'a' }",
        Invalid,
        6,
        None,
        "unknown variant `splt`, expected one of `rename`",
    );
    check(
        "[[rule]]\nsplit = { tensors = 'a', tensrs = 'a' }",
        Invalid,
        6,
        None,
        "tensrs, available keys: tensors",
    );
    check("[[rule]]\ndrop = {}", Invalid, 6, None, "missing field `tensors`");
    check("[[rule]]\ndrop = { tensors = 3 }", Invalid, 6, None, "a name, a list of names, { prefix");
    check("[[rule]]\ndrop = { tensors = { suffix = 'a' } }", Invalid, 6, None, "unknown field `suffix`");
    check("[[rule]]\ndrop = { tensors = { prefix = 'a', regex = 'b' } }", Invalid, 6, None, "a name, a list");
    check("[[rule]]\ncast = { tensors = 'embed', dtype = 'f33' }", Invalid, 6, None, "unknown dtype \"f33\"");
    check("[[rule]]\nslice = { tensors = 'embed', start = -1 }", Invalid, 6, None, "-1");
    check("[[rule]\n", Invalid, 5, None, "");
    check(
        "[[rule]]\ndrop = { tensors = { regex = '(' } }",
        Invalid,
        5,
        Some(2),
        "line 5: rule 2 (drop): the regular expression",
    );
    check("[[rule]]\ndrop = { tensors = 'rest' }", NotFound, 5, Some(2), "tensor \"rest\": a rule before");
    check(
        "\n\n[[rule]]\nslice = { tensors = 'embed', end = 17 }",
        Shape,
        7,
        Some(2),
        "0..17 of extent 0, which is 16",
    );
    assert!(unlike.is_empty(), "{unlike:#?}");
    let error = Conversion::read_toml(dir.path().join("nowhere.toml")).unwrap_err();
    assert_eq!((error.kind(), error.line()), (ConversionErrorKind::Io, None));
    assert!(error.to_string().contains("nowhere.toml"), "{error}");
}
