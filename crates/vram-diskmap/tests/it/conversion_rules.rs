//! Names that rules choose and make, and what is wrong with rules.

use std::path::Path;

use vram_diskmap::{Conversion, ConversionErrorKind, DiskMap, Names, Rule};
use vram_types::{DType, TensorMeta, WeightSource};

/// Writes a checkpoint of bf16 tensors of these names and shapes.
fn checkpoint(dir: &tempfile::TempDir, tensors: &[(&str, DType, &[usize])]) -> std::path::PathBuf {
    let path = dir.path().join("m.safetensors");
    let meta = |dtype, shape: &[usize]| TensorMeta::new(dtype, shape).unwrap();
    let declared = tensors.iter().map(|&(name, dtype, shape)| (name, meta(dtype, shape)));
    let mut writer = vram_diskmap::SafetensorsWriter::create(&path, declared, &[]).unwrap();
    for &(_, dtype, shape) in tensors {
        writer.write(&crate::helpers::noise(1, meta(dtype, shape).bytes() as usize)).unwrap();
    }
    writer.finish().unwrap();
    path
}

const TENSORS: [(&str, DType, &[usize]); 7] = [
    ("model.0.qkv.weight", DType::BF16, &[6, 4]),
    ("model.0.qkv.bias", DType::BF16, &[6]),
    ("model.1.qkv.weight", DType::BF16, &[6, 4]),
    ("model.1.qkv.bias", DType::BF16, &[6]),
    ("head", DType::F32, &[3, 4]),
    ("ids", DType::I64, &[4]),
    ("half", DType::F4, &[2, 6]),
];

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Names and shapes of what a conversion makes.
fn made(path: &Path, conversion: &Conversion) -> Vec<String> {
    let converted = DiskMap::open(path).unwrap().convert(conversion).unwrap_or_else(|e| panic!("{e}"));
    let mut made: Vec<String> =
        converted.iter().map(|(name, located)| format!("{name} {}", located.meta.shape())).collect();
    made.sort();
    made
}

#[test]
fn names_are_chosen_and_made() {
    let dir = folder();
    let path = checkpoint(&dir, &TENSORS);
    let rest = Conversion::new().keep(Names::prefix("model."));
    assert_eq!(
        made(&path, &rest.clone().rename(Names::prefix("model."), "")),
        ["0.qkv.bias [6]", "0.qkv.weight [6, 4]", "1.qkv.bias [6]", "1.qkv.weight [6, 4]"]
    );
    let swap = Conversion::new().keep(["head", "ids"]).rename_map([("head", "ids"), ("ids", "head")]);
    assert_eq!(made(&path, &swap), ["head [4]", "ids [3, 4]"]);
    let by_function =
        Conversion::new().rename_with(|name| Some(format!("x.{}", name.strip_prefix("model.1.")?)));
    assert_eq!(made(&path, &by_function), ["x.qkv.bias [6]", "x.qkv.weight [6, 4]"]);
    let order = DiskMap::open(&path).unwrap().convert(&Conversion::new().rename("half", "a")).unwrap();
    assert!(order.names().eq(TENSORS.map(|t| if t.0 == "half" { "a" } else { t.0 })), "in the file's order");
}

#[test]
#[cfg(feature = "regex")]
fn regular_expressions_do_every_layer_at_once() {
    let dir = folder();
    let path = checkpoint(&dir, &TENSORS);
    let split = Conversion::new().keep(Names::regex(r"qkv")).split(
        Names::regex(r"^model\.(\d+)\.qkv\."),
        0,
        ["layers.$1.q.", "layers.$1.k.", "layers.$1.v."],
    );
    let names = made(&path, &split);
    assert_eq!(names.len(), 12);
    assert_eq!(names[..2], ["layers.0.k.bias [2]", "layers.0.k.weight [2, 4]"]);
    let back = split.concat(
        Names::regex(r"^layers\.(\d+)\.q\."),
        0,
        ["$0", "layers.$1.k.", "layers.$1.v."],
        "model.$1.qkv.",
    );
    assert_eq!(made(&path, &back), made(&path, &Conversion::new().keep(Names::prefix("model."))));
    let error =
        DiskMap::open(&path).unwrap().convert(&Conversion::new().drop(Names::regex("^qkv"))).unwrap_err();
    assert_eq!((error.kind(), error.rule()), (ConversionErrorKind::NotFound, Some(1)));
    assert!(error.message().contains("\"^qkv\""), "{error}");
}

#[test]
fn every_wrong_rule_is_refused_by_its_number_and_tensor() {
    use ConversionErrorKind::{Duplicate, Invalid, NotFound, Shape, Unsupported};
    let dir = folder();
    let path = checkpoint(&dir, &TENSORS);
    let check = |conversion: Conversion, kind, tensor: Option<&str>, says: &str| {
        let error = DiskMap::open(&path).unwrap().convert(&conversion).map(drop).expect_err(says);
        assert_eq!((error.kind(), error.tensor(), error.rule()), (kind, tensor, Some(2)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!((error.path(), error.line()), (None, None));
    };
    let new = || Conversion::new().rename("head", "h");
    check(
        new().drop("nobody"),
        NotFound,
        Some("nobody"),
        "rule 2 (drop): tensor \"nobody\": there is no tensor of this name",
    );
    check(new().keep(["ids", "nobody"]), NotFound, Some("nobody"), "no tensor of this name");
    check(new().drop("head"), NotFound, Some("head"), "a rule before this one has taken it");
    check(new().rename(Names::prefix("x."), ""), NotFound, None, "no tensor's name begins with \"x.\"");
    check(new().drop(Names::List(Vec::new())), NotFound, None, "lists no tensors");
    check(new().rename_map([("a", "b")]), NotFound, Some("a"), "");
    check(new().rename_map::<&str, &str>([]), Invalid, None, "");
    check(new().rename("ids", "h"), Duplicate, Some("h"), "\"ids\" would be called so");
    check(new().rename(["h", "ids"], "x"), Duplicate, Some("x"), "both \"h\" and \"ids\"");
    check(new().rename("h", "$1"), Invalid, None, "the pattern has no group \"1\"");
    check(new().split("h", 0, ["a", "b"]), Shape, Some("h"), "extent 0, which is 3, has no 2 equal parts");
    check(new().split("h", 2, ["a"]), Shape, Some("h"), "no extent 2 in the shape [3, 4]");
    check(new().split::<&str>("h", 0, []), Shape, Some("h"), "no 0 equal parts");
    let sizes = |sizes: &[usize]| {
        let (into, sizes) = (vec!["a".to_owned(), "b".to_owned()], Some(sizes.to_vec()));
        new().rule(Rule::Split { tensors: "h".into(), dim: 0, into, sizes })
    };
    check(sizes(&[1, 1]), Shape, Some("h"), "1 + 1 are not the 3 of extent 0");
    check(sizes(&[3]), Shape, Some("h"), "1 sizes for 2 parts");
    check(sizes(&[usize::MAX, 4]), Shape, Some("h"), "are not the 3");
    check(new().concat("h", 0, ["h", "nobody"], "x"), NotFound, Some("nobody"), "");
    check(new().concat("h", 0, ["h", "ids"], "x"), Unsupported, Some("x"), "parts of F32 and of I64");
    check(new().concat("ids", 1, ["ids"], "x"), Shape, Some("x"), "no extent 1 in the shape [4]");
    check(new().concat("h", 0, ["ids"], "x"), Invalid, Some("h"), "the parts are others");
    let [weight, bias] = ["model.0.qkv.weight", "model.0.qkv.bias"];
    check(
        new().concat(weight, 0, [weight, bias], "x"),
        Shape,
        Some("x"),
        "[6, 4] and [6] differ in more than extent 0",
    );
    check(new().transpose("h", [0]), Shape, Some("h"), "the axes [0] are no order of the 2 extents");
    check(new().transpose("h", [0, 0]), Shape, Some("h"), "");
    check(new().transpose("h", [0, 2]), Shape, Some("h"), "");
    check(
        new().reshape("h", [5, -1]),
        Shape,
        Some("h"),
        "the shape [5, -1] has not the 12 elements of [3, 4]",
    );
    check(new().reshape("h", [-3, -4]), Shape, Some("h"), "");
    check(new().slice("h", 0, 1..4), Shape, Some("h"), "the range 1..4 of extent 0, which is 3");
    check(
        new().rule(Rule::Slice { tensors: "h".into(), dim: 0, start: 9, end: None }),
        Shape,
        Some("h"),
        "9..3",
    );
    check(
        new().slice("half", 1, 1..3),
        Unsupported,
        Some("half"),
        "in the middle of a byte: 2 elements are in 1",
    );
    check(new().slice("half", 1, 0..3), Unsupported, Some("half"), "in the middle of a byte");
    check(new().transpose("half", [1, 0]), Unsupported, Some("half"), "in the middle of a byte");
    check(new().cast("ids", DType::F32), Unsupported, Some("ids"), "no conversion from I64 to F32");
    check(new().cast(Names::prefix("i"), DType::F32), NotFound, None, "floating-point");
    check(new().cast(Names::all(), DType::I64), Unsupported, Some("h"), "no conversion from F32 to I64");
}

#[test]
fn what_would_have_no_bound_is_refused() {
    let dir = folder();
    let path = checkpoint(&dir, &TENSORS[..1]);
    let name = TENSORS[0].0;
    let refused = |conversion: &Conversion, says: &str| {
        let error = DiskMap::open(&path).unwrap().convert(conversion).unwrap_err();
        assert!(
            error.kind() == ConversionErrorKind::Unsupported && error.message().contains(says),
            "{error}"
        );
    };
    let doubled = |c: Conversion, i: usize| c.copy(Names::all(), format!("{i}."));
    refused(&(0..30).fold(Conversion::new(), doubled), "are the most");
    let grown = |c: Conversion, _: usize| c.concat(name, 0, [name, name], name);
    refused(&(0..80).fold(Conversion::new(), grown), "");
    let turned = |c: Conversion, i: usize| {
        let shape = if i.is_multiple_of(2) { [8, 3] } else { [6, 4] };
        c.transpose(name, [1, 0]).reshape(name, shape)
    };
    refused(&(0..40).fold(Conversion::new(), turned), "deep");
    let rounded =
        |c: Conversion, i: usize| c.cast(name, if i.is_multiple_of(2) { DType::F32 } else { DType::BF16 });
    refused(&(0..40).fold(Conversion::new(), rounded), "deep");
}

#[test]
fn a_tensor_that_cannot_be_read_says_why() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch/unreadable.pt");
    let error = DiskMap::open(path).unwrap().convert(&Conversion::new().drop("sparse")).unwrap_err();
    assert_eq!((error.kind(), error.tensor()), (ConversionErrorKind::NotFound, Some("sparse")));
    assert!(error.message().contains("it cannot be read: ") && error.message().contains("sparse"), "{error}");
}
