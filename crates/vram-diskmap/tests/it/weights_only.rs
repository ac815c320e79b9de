//! The names that PyTorch's own `weights_only` loader accepts, each in a pickle that uses it as PyTorch does.
//!
//! The list is that of PyTorch 2.15.0: `_get_allowed_globals` of `torch/_weights_only_unpickler.py`, with the types of
//! tensors that `torch/csrc/utils/tensor_types.cpp` declares, and what PyTorch's own modules add when they are imported
//! (`add_safe_globals`).

use std::collections::HashSet;

use vram_diskmap::DiskMap;
use vram_types::{FileId, WeightSource};

use crate::hostile::{stored, zip};

/// What becomes of the entry `t`.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// A tensor of that name, element type and number of bytes.
    Read(&'static str, &'static str, usize),
    /// Metadata: key and text.
    Metadata(&'static str, &'static str),
    /// An object that is listed as unread, in these words.
    Opaque(&'static str),
    /// A tensor that is left out by name, for this reason.
    Unsupported(&'static str),
}
use Becomes::{Metadata, Opaque, Read, Unsupported};

/// The name, the pickled value of `t`, and what becomes of it.
type Entry = (String, Vec<u8>, Becomes);

const F32: Becomes = Read("t", "F32", 4);
const NO_DTYPE: Becomes = Unsupported("of a dtype that only PyTorch has");
const SPARSE: Becomes = Unsupported("sparse tensors cannot be read");
const QUANTISED: Becomes = Unsupported("PyTorch's quantised tensors cannot be read");
/// An object of the name itself.
const OBJECT: Becomes = Opaque("");

/// `GLOBAL`.
fn name(path: &str) -> Vec<u8> {
    let (module, name) = path.rsplit_once('.').unwrap();
    format!("c{module}\n{name}\n").into_bytes()
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

fn tuple(parts: &[&[u8]]) -> Vec<u8> {
    [b"(", &*parts.concat(), b"t"].concat()
}

fn call(path: &str, arguments: &[&[u8]]) -> Vec<u8> {
    [name(path), tuple(arguments), b"R".to_vec()].concat()
}

/// An object with attributes, as Python 3 pickles most classes.
fn object(path: &str, attributes: &[u8]) -> Vec<u8> {
    [&name(path), &b")\x81"[..], attributes, b"b"].concat()
}

/// The one storage of the file, as so many elements of a type.
fn storage(kind: &str, count: u8) -> Vec<u8> {
    let id = [&text("storage"), &name(kind), &text("0"), &text("cpu"), &b"K"[..], &[count]];
    [tuple(&id), b"Q".to_vec()].concat()
}

/// Offset, extents and strides of one element.
const ONE: &[u8] = b"K\0K\x01\x85K\x01\x85";
/// The hooks that every tensor has: none.
const HOOKS: &[u8] = b"ccollections\nOrderedDict\n)R";
const FALSE: &[u8] = b"\x89";

fn v2(kind: &str) -> Vec<u8> {
    call("torch._utils._rebuild_tensor_v2", &[&storage(kind, 1), ONE, FALSE, HOOKS])
}

fn v3(kind: &str, dtype: &str) -> Vec<u8> {
    call("torch._utils._rebuild_tensor_v3", &[&storage(kind, 16), ONE, FALSE, HOOKS, &name(dtype)])
}

fn plain() -> Vec<u8> {
    v2("torch.FloatStorage")
}

fn quantised(scheme: &str) -> Vec<u8> {
    let how = tuple(&[&name(scheme), b"G\x3f\xe0\0\0\0\0\0\0", b"K\0"]);
    let storage = storage("torch.QInt8Storage", 1);
    call("torch._utils._rebuild_qtensor", &[&storage, ONE, &how, FALSE, HOOKS])
}

/// The oldest tensors: empty ones whose state is set afterwards.
fn emptied(path: &str, kind: &str) -> Vec<u8> {
    [name(path), b")\x81".to_vec(), tuple(&[&storage(kind, 1), ONE]), b"b".to_vec()].concat()
}

fn array() -> Vec<u8> {
    let dtype = call("numpy.dtype", &[&text("f4"), b"K\0K\x01"]);
    let little = tuple(&[b"K\x03", &text("<"), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0"]);
    let empty = call("numpy.core.multiarray._reconstruct", &[&name("numpy.ndarray"), b"K\0\x85C\x01b"]);
    let dtype = [&dtype[..], &little, b"b"].concat();
    let state = tuple(&[b"K\x01K\x01\x85", &dtype, FALSE, b"C\x04\0\x01\x02\x03"]);
    [empty, state, b"b".to_vec()].concat()
}

/// Element types with our name for them and the bytes of an element, for the three ways in which PyTorch names them:
/// dtype, storage and, in its first versions, type of tensors.
const KINDS: [(&str, &str, Becomes); 12] = [
    ("float64", "Double", Read("t", "F64", 8)),
    ("float32", "Float", F32),
    ("float16", "Half", Read("t", "F16", 2)),
    ("bfloat16", "BFloat16", Read("t", "BF16", 2)),
    ("int64", "Long", Read("t", "I64", 8)),
    ("int32", "Int", Read("t", "I32", 4)),
    ("int16", "Short", Read("t", "I16", 2)),
    ("int8", "Char", Read("t", "I8", 1)),
    ("uint8", "Byte", Read("t", "U8", 1)),
    ("bool", "Bool", Read("t", "BOOL", 1)),
    ("complex64", "ComplexFloat", Read("t", "C64", 8)),
    ("complex128", "ComplexDouble", NO_DTYPE),
];

/// Dtypes without a storage of their own.
const DTYPES: [(&str, Becomes); 9] = [
    ("float8_e5m2", Read("t", "F8_E5M2", 1)),
    ("float8_e4m3fn", Read("t", "F8_E4M3", 1)),
    ("float8_e5m2fnuz", Read("t", "F8_E5M2FNUZ", 1)),
    ("float8_e4m3fnuz", Read("t", "F8_E4M3FNUZ", 1)),
    ("float8_e8m0fnu", Read("t", "F8_E8M0", 1)),
    ("uint16", Read("t", "U16", 2)),
    ("uint32", Read("t", "U32", 4)),
    ("uint64", Read("t", "U64", 8)),
    ("float4_e2m1fn_x2", NO_DTYPE),
];
const OTHER_DTYPES: &str = "complex32 bcomplex32 qint8 qint32 quint8 quint4x2 quint2x4 \
    bits8 bits16 bits1x8 bits2x4 bits4x2 \
    uint1 uint2 uint3 uint4 uint5 uint6 uint7 int1 int2 int3 int4 int5 int6 int7";

fn element_types() -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut dtype = |name: &str, becomes| {
        let path = format!("torch.{name}");
        entries.push((path.clone(), v3("torch.storage.UntypedStorage", &path), becomes));
    };
    KINDS.iter().for_each(|(name, _, becomes)| dtype(name, *becomes));
    DTYPES.iter().for_each(|(name, becomes)| dtype(name, *becomes));
    OTHER_DTYPES.split_whitespace().for_each(|name| dtype(name, NO_DTYPE));
    for module in ["torch", "torch.cuda"] {
        for (_, kind, becomes) in KINDS {
            let storage = format!("{module}.{kind}Storage");
            entries.push((storage.clone(), v2(&storage), becomes));
            if kind.starts_with("Complex") {
                continue;
            }
            let tensor = format!("{module}.{kind}Tensor");
            entries.push((tensor.clone(), emptied(&tensor, &storage), becomes));
            if kind != "Bool" {
                let sparse = format!("{module}.sparse.{kind}Tensor");
                let parts = [v2("torch.LongStorage"), v2(&storage), call("torch.Size", &[b"K\x01\x85"])];
                entries.push((sparse.clone(), call(&sparse, &[&parts.concat()]), SPARSE));
            }
        }
    }
    for kind in ["QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4"] {
        let storage = format!("torch.{kind}Storage");
        entries.push((storage.clone(), v2(&storage), NO_DTYPE));
    }
    entries
}

fn entries() -> Vec<Entry> {
    let tensor = &*plain();
    let dict = |key: &[u8], value: &[u8]| [b"}", key, value, b"s"].concat();
    let named = |path: &str, what: &[&[u8]], becomes: Becomes| (path.to_owned(), call(path, what), becomes);
    let made = |path: &str, attributes: &[u8]| (path.to_owned(), object(path, attributes), OBJECT);
    let parameter = "torch.nn.parameter.Parameter";
    let layout = call("torch.serialization._get_layout", &[&text("torch.sparse_coo")]);
    let float = name("torch.float32");
    let device = call("torch.device", &[&text("cpu")]);
    let storage = storage("torch.FloatStorage", 4);
    let mut entries = vec![
        (
            "collections.OrderedDict".to_owned(),
            [HOOKS, &text("w"), tensor, b"s"].concat(),
            Read("t.w", "F32", 4),
        ),
        named("collections.Counter", &[&dict(&text("a"), b"K\x03")], Metadata("t.a", "3")),
        (parameter.to_owned(), [&*name(parameter), &tuple(&[tensor, b"\x88"]), b"\x81"].concat(), F32),
        named("torch.serialization._get_layout", &[&text("torch.strided")], OBJECT),
        named("torch.Size", &[b"(K\x02K\x03t"], Metadata("t", "[2,3]")),
        ("torch.Tensor".to_owned(), emptied("torch.Tensor", "torch.FloatStorage"), F32),
        named("torch.device", &[&text("cpu")], OBJECT),
        (
            "_codecs.encode".to_owned(),
            dict(&call("_codecs.encode", &[&text("k"), &text("latin1")]), tensor),
            Read("t.b'k'", "F32", 4),
        ),
        named("builtins.bytearray", &[b"C\x02ab"], OBJECT),
        named("builtins.set", &[b"](K\x01K\x02e"], Metadata("t", "[1,2]")),
        named("builtins.complex", &[b"G\x3f\xf0\0\0\0\0\0\0G\x40\0\0\0\0\0\0\0"], OBJECT),
        ("torch.storage.UntypedStorage".to_owned(), v3("torch.storage.UntypedStorage", "torch.float32"), F32),
        // Only ever a base of the others.
        (
            "torch.storage.TypedStorage".to_owned(),
            v2("torch.storage.TypedStorage"),
            Unsupported("made with \"torch.storage.TypedStorage\", which is unknown here"),
        ),
        named("torch._utils._rebuild_parameter", &[tensor, b"\x88", HOOKS], F32),
        named(
            "torch._utils._rebuild_parameter_with_state",
            &[tensor, b"\x88", HOOKS, &dict(&text("a"), b"K\x01")],
            F32,
        ),
        ("torch._utils._rebuild_qtensor".to_owned(), quantised("torch.per_tensor_affine"), QUANTISED),
        named("torch._utils._rebuild_tensor", &[&storage, ONE], F32),
        named("torch._utils._rebuild_tensor_v2", &[&storage, ONE, FALSE, HOOKS, b"}"], F32),
        named("torch._utils._rebuild_tensor_v3", &[&storage, ONE, FALSE, HOOKS, &float, b"}"], F32),
        named(
            "torch._utils._rebuild_sparse_tensor",
            &[&layout, &tuple(&[&v2("torch.LongStorage"), tensor, &call("torch.Size", &[b"K\x01\x85"])])],
            SPARSE,
        ),
        named(
            "torch._utils._rebuild_meta_tensor_no_storage",
            &[&float, b"K\x01\x85K\x01\x85", FALSE],
            Unsupported("a meta tensor has no bytes"),
        ),
        named(
            "torch._utils._rebuild_wrapper_subclass",
            &[&name("torch.Tensor"), &float, b"K\x01\x85K\x01\x85K\0", &layout, &device, FALSE],
            Unsupported("wrapped tensors cannot be read"),
        ),
        named(
            "torch._utils._rebuild_device_tensor_from_numpy",
            &[&array(), &float, &text("xla:0"), FALSE],
            F32,
        ),
        named(
            "torch._utils._rebuild_device_tensor_from_cpu_tensor",
            &[tensor, &float, &text("xla:0"), FALSE],
            F32,
        ),
        named(
            "torch._tensor._rebuild_from_type_v2",
            &[
                &name("torch._utils._rebuild_tensor_v2"),
                &name(parameter),
                &tuple(&[&storage, ONE, FALSE, HOOKS]),
                b"}",
            ],
            F32,
        ),
        // What modules add. A tensor of several machines is none here: its bytes are only a part.
        (
            "torch.distributed.tensor.DTensor".to_owned(),
            call(
                "torch._tensor._rebuild_from_type_v2",
                &[
                    &name("torch._utils._rebuild_wrapper_subclass"),
                    &name("torch.distributed.tensor.DTensor"),
                    &tuple(&[
                        &name("torch.distributed.tensor.DTensor"),
                        &float,
                        b"K\x01\x85K\x01\x85K\0",
                        &layout,
                        &device,
                        FALSE,
                    ]),
                    &dict(&text("_local_tensor"), tensor),
                ],
            ),
            Unsupported("made with \"torch.distributed.tensor.DTensor\", which is unknown here"),
        ),
    ];
    for scheme in ["per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric"]
        .into_iter()
        .chain(["per_channel_affine_float_qparams"])
    {
        let scheme = format!("torch.{scheme}");
        entries.push((scheme.clone(), quantised(&scheme), QUANTISED));
    }
    for path in [
        "torch.distributed.tensor._dtensor_spec.DTensorSpec",
        "torch.distributed.tensor._dtensor_spec.TensorMeta",
        "torch.distributed.tensor._dtensor_spec.ShardOrderEntry",
        "torch.distributed.tensor.placement_types.Partial",
        "torch.distributed.tensor.placement_types.Replicate",
        "torch.distributed.tensor.placement_types.Shard",
        "torch.distributed.tensor.placement_types._StridedShard",
        "torch.distributed.device_mesh.DeviceMesh",
        "torch.distributed._mesh_layout._FlatLayout",
        "torch.distributed._mesh_layout._MeshLayout",
        "torch.distributed._serialization._Entry",
        "torch._dynamo.decorators._DimRange",
        "torch._vendor.quack.blockscaled.operand.BlockScaledOperand",
        "torch._vendor.quack.blockscaled.operand.BlockScaledFormat",
    ] {
        entries.push(made(path, &dict(&text("dim"), b"K\0")));
    }
    entries.extend(element_types());
    entries
}

#[test]
fn every_name_that_pytorch_accepts_is_read_opaque_or_unsupported() {
    let entries = entries();
    let names: HashSet<&str> = entries.iter().map(|(name, ..)| name.as_str()).collect();
    // 11 by name, 47 dtypes, 38 types of tensors, 31 storages, 5 ways to quantise, 12 functions; 15 of modules.
    assert_eq!((names.len(), entries.len()), (11 + 47 + 38 + 31 + 5 + 12 + 15, names.len()));
    let bytes: Vec<u8> = (0..16).collect();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("m.pt");
    for (entry, value, becomes) in &entries {
        let pickle =
            [b"\x80\x02}(", &*text("plain"), &plain(), &text("t"), value, &text("lr"), b"K\x07u."].concat();
        let (module, name) = entry.rsplit_once('.').unwrap();
        let asked = format!("c{module}\n{name}\n");
        assert!(pickle.windows(asked.len()).any(|part| part == asked.as_bytes()), "{entry} is not used");
        std::fs::write(&path, zip(&[stored("a/data.pkl", &pickle), stored("a/data/0", &bytes)])).unwrap();
        let map = DiskMap::open(&path).unwrap_or_else(|e| panic!("{entry}: {e}"));

        // Whatever it is, nothing else is lost.
        assert_eq!(map.get("plain").unwrap().bytes(), &bytes[..4], "{entry}");
        let metadata = map.metadata(FileId(0));
        let (mut read, mut kept, mut unread, mut left_out) =
            (vec!["plain"], vec![("lr", "7")], vec![], vec![]);
        let an_object = format!("an object of {entry:?}");
        match *becomes {
            Read(name, dtype, len) => {
                read.push(name);
                let tensor = map.get(name).unwrap_or_else(|e| panic!("{entry}: {e}"));
                assert_eq!((tensor.meta().dtype().name(), tensor.bytes()), (dtype, &bytes[..len]), "{entry}");
            }
            Metadata(key, text) => kept.insert(0, (key, text)),
            Opaque(what) => unread.push(("t", if what.is_empty() { &*an_object } else { what })),
            Unsupported(why) => left_out.push(("t", why)),
        }
        assert_eq!(map.names().collect::<HashSet<_>>(), read.into_iter().collect(), "{entry}");
        let pairs: Vec<_> = metadata.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        assert_eq!(pairs, kept, "{entry}");
        assert_eq!(map.unread().collect::<Vec<_>>(), unread, "{entry}");
        assert_eq!(map.unreadable().collect::<Vec<_>>(), left_out, "{entry}");
    }
}
