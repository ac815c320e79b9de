//! The names that a pickle asks for and that mean something here. Nothing is ever imported or
//! called; these are words.

use vram_types::DType;

use super::heap::{Element, Global, Numpy, Rebuild};

/// Modules that no checkpoint needs and that run programs, open connections or load code.
const RUNNING_MODULES: [&str; 35] = [
    "os",
    "posix",
    "nt",
    "posixpath",
    "ntpath",
    "subprocess",
    "_posixsubprocess",
    "commands",
    "popen2",
    "sys",
    "shutil",
    "pty",
    "socket",
    "_socket",
    "ssl",
    "ctypes",
    "_ctypes",
    "importlib",
    "_frozen_importlib",
    "imp",
    "runpy",
    "code",
    "codeop",
    "bdb",
    "pdb",
    "timeit",
    "profile",
    "cProfile",
    "webbrowser",
    "urllib",
    "urllib2",
    "httplib",
    "requests",
    "pip",
    "marshal",
];
/// What Python's own module has of that kind.
const RUNNING_BUILTINS: [&str; 9] =
    ["eval", "exec", "execfile", "compile", "open", "input", "__import__", "breakpoint", "file"];

/// Whether whoever asks for a name wants to run something: such a file is refused.
pub(super) fn runs(module: &str, name: &str) -> bool {
    let root = module.split('.').next().unwrap_or_default();
    match root {
        "builtins" | "__builtin__" => RUNNING_BUILTINS.contains(&name),
        _ => RUNNING_MODULES.contains(&root),
    }
}

/// What a name stands for; `None` if it means nothing here.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict") => Global::Dict,
        ("collections", "defaultdict") => Global::DefaultDict,
        ("collections", "Counter") => Global::Counter,
        ("builtins" | "__builtin__", "set" | "frozenset" | "list" | "tuple") => Global::Set,
        ("_codecs", "encode") => Global::Encode,
        ("torch", "Size") => Global::Size,
        ("torch", "Tensor") => Global::TensorType,
        ("torch.nn.parameter", "Parameter" | "Buffer") => Global::TensorType,
        ("torch" | "torch.cuda", name) if is_old_tensor(name) => Global::TensorType,
        ("torch.sparse" | "torch.cuda.sparse", name) if is_old_tensor(name) => {
            Global::Rebuild(Rebuild::Other(SPARSE))
        }
        ("torch._utils", function) => Global::Rebuild(rebuild(function)?),
        ("torch._tensor", "_rebuild_from_type_v2") => Global::Rebuild(Rebuild::FromType),
        ("torch.storage" | "torch", "UntypedStorage") => Global::Storage(Element::Untyped),
        ("numpy", "ndarray") => Global::Numpy(Numpy::Array),
        ("numpy", "dtype") => Global::Numpy(Numpy::DType),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
            Global::Numpy(Numpy::Reconstruct)
        }
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::Numpy(Numpy::Scalar),
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Global::Numpy(Numpy::FromBuffer),
        // Storages of one device or another: where the numbers were does not matter here.
        ("torch", name) => match name.strip_suffix("Storage") {
            Some(kind) => Global::Storage(storage(kind)?),
            None => Global::DType(dtype(name)?),
        },
        ("torch.cuda" | "torch.xpu" | "torch.npu" | "torch.hpu" | "torch.mtia", name) => {
            Global::Storage(storage(name.strip_suffix("Storage")?)?)
        }
        _ => return None,
    })
}

const SPARSE: &str = "sparse tensors cannot be read";

/// Whether a name is that of a type of tensors with one element type: PyTorch wrote objects of them
/// before its version 0.2.
fn is_old_tensor(name: &str) -> bool {
    let kind = name.strip_suffix("Tensor").map(storage);
    matches!(kind, Some(Some(Element::Typed(dtype))) if dtype != DType::C64)
}

fn rebuild(function: &str) -> Option<Rebuild> {
    Some(match function {
        "_rebuild_tensor" => Rebuild::V1,
        "_rebuild_tensor_v2" => Rebuild::V2,
        "_rebuild_tensor_v3" => Rebuild::V3,
        "_rebuild_parameter" | "_rebuild_parameter_with_state" => Rebuild::Parameter,
        "_rebuild_device_tensor_from_numpy" | "_rebuild_xla_tensor" => Rebuild::Device,
        "_rebuild_device_tensor_from_cpu_tensor" => Rebuild::Device,
        "_rebuild_qtensor" => Rebuild::Other("PyTorch's quantised tensors cannot be read"),
        "_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor" => Rebuild::Other(SPARSE),
        "_rebuild_nested_tensor" => Rebuild::Other("nested tensors cannot be read"),
        "_rebuild_meta_tensor_no_storage" => Rebuild::Other("a meta tensor has no bytes"),
        "_rebuild_wrapper_subclass" => Rebuild::Other("wrapped tensors cannot be read"),
        _ => return None,
    })
}

fn storage(kind: &str) -> Option<Element> {
    Some(Element::Typed(match kind {
        "Float" => DType::F32,
        "Double" => DType::F64,
        "Half" => DType::F16,
        "BFloat16" => DType::BF16,
        "Long" => DType::I64,
        "Int" => DType::I32,
        "Short" => DType::I16,
        "Char" => DType::I8,
        "Byte" => DType::U8,
        "Bool" => DType::BOOL,
        "ComplexFloat" => DType::C64,
        "ComplexDouble" => return Some(Element::Unknown(16)),
        "QInt32" => return Some(Element::Unknown(4)),
        "QInt8" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => return Some(Element::Unknown(1)),
        _ => return None,
    }))
}

/// `Some(None)` for a dtype that PyTorch has and we have not.
fn dtype(name: &str) -> Option<Option<DType>> {
    Some(Some(match name {
        "float32" => DType::F32,
        "float64" => DType::F64,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        "int64" => DType::I64,
        "int32" => DType::I32,
        "int16" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::BOOL,
        "complex64" => DType::C64,
        "float8_e4m3fn" => DType::F8_E4M3,
        "float8_e5m2" => DType::F8_E5M2,
        "float8_e4m3fnuz" => DType::F8_E4M3FNUZ,
        "float8_e5m2fnuz" => DType::F8_E5M2FNUZ,
        "float8_e8m0fnu" => DType::F8_E8M0,
        "complex128" | "complex32" | "bcomplex32" | "qint8" | "quint8" | "qint32" | "quint4x2"
        | "quint2x4" => {
            return Some(None);
        }
        "float4_e2m1fn_x2" | "bits8" | "bits16" | "bits1x8" | "bits2x4" | "bits4x2" => return Some(None),
        "uint1" | "uint2" | "uint3" | "uint4" | "uint5" | "uint6" | "uint7" => return Some(None),
        "int1" | "int2" | "int3" | "int4" | "int5" | "int6" | "int7" => return Some(None),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_of_tensors_are_known() {
        assert_eq!(find("torch", "HalfStorage"), Some(Global::Storage(Element::Typed(DType::F16))));
        assert_eq!(find("torch.cuda", "HalfStorage"), Some(Global::Storage(Element::Typed(DType::F16))));
        assert_eq!(find("torch", "complex128"), Some(Global::DType(None)));
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("argparse", "Namespace"),
            ("numpy", "load"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch._utils", "_import_dotted_name"),
            ("collections", "namedtuple"),
            ("", ""),
        ] {
            assert_eq!(find(module, name), None, "{module}.{name}");
        }
        for (module, name, is) in [
            ("os", "system", true),
            ("os.path", "join", true),
            ("builtins", "eval", true),
            ("builtins", "getattr", false),
            ("osgeo", "Open", false),
            ("argparse", "Namespace", false),
        ] {
            assert_eq!(runs(module, name), is, "{module}.{name}");
        }
    }
}
