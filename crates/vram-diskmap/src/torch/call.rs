//! What the functions of the allow-list give back, and what a persistent id stands for.

use vram_types::{DType, SourceErrorKind};

use super::heap::{Allowance, Element, Global, Heap, Node, Rebuild, Span, Storage, Tensor, Value};
use crate::fault::{Fault, quoted};

fn invalid(message: &'static str) -> Fault {
    Fault::new(SourceErrorKind::Invalid, message)
}

/// Applies a function to a list of arguments.
pub(super) fn call(
    heap: &mut Heap,
    allowance: &mut Allowance,
    function: Global,
    arguments: Value,
    at: u32,
) -> Result<Value, Fault> {
    let items = |heap: &Heap| heap.list(arguments).unwrap_or_default().to_vec();
    match function {
        Global::Dict | Global::Counter => dict(heap, allowance, &items(heap)),
        Global::Set | Global::Size => match items(heap).as_slice() {
            [] => heap.add(Node::List(Vec::new()), allowance),
            [only] if heap.list(*only).is_some() => Ok(*only),
            _ => Err(invalid("a size or a set of what is no list")),
        },
        Global::Ignored | Global::Encode => Ok(Value::Opaque),
        Global::Rebuild(rebuild) => {
            let copied = size_of_val(heap.list(arguments).unwrap_or_default());
            allowance.take(copied)?;
            let value = rebuilt(heap, allowance, rebuild, &items(heap), at);
            allowance.give(copied);
            value
        }
        Global::Storage(_) | Global::DType(_) | Global::TensorType => {
            Err(invalid("a call of what is no function"))
        }
    }
}

/// An ordered dictionary, from nothing or from a list of pairs.
fn dict(heap: &mut Heap, allowance: &mut Allowance, arguments: &[Value]) -> Result<Value, Fault> {
    let mut pairs = Vec::new();
    match arguments {
        [] => {}
        [only] => match heap.get(*only) {
            Some(Node::Dict(from)) => {
                for &pair in from {
                    allowance.push(&mut pairs, pair)?;
                }
            }
            Some(Node::List(from)) => {
                for &pair in from {
                    match heap.list(pair) {
                        Some(&[key, value]) => allowance.push(&mut pairs, (key, value))?,
                        _ => return Err(invalid("a dictionary of what are no pairs")),
                    }
                }
            }
            _ => return Err(invalid("a dictionary of what is no list")),
        },
        _ => return Err(invalid("a dictionary of several arguments")),
    }
    heap.add(Node::Dict(pairs), allowance)
}

fn rebuilt(
    heap: &mut Heap,
    allowance: &mut Allowance,
    rebuild: Rebuild,
    arguments: &[Value],
    at: u32,
) -> Result<Value, Fault> {
    let few = || invalid("a tensor is rebuilt of too few arguments");
    match (rebuild, arguments) {
        (Rebuild::Other(why), _) => heap.add(Node::Unreadable(why), allowance),
        (Rebuild::Parameter, [data, ..]) => match heap.get(*data) {
            Some(Node::Tensor(_) | Node::Unreadable(_)) => Ok(*data),
            _ => Err(invalid("a parameter of what is no tensor")),
        },
        (
            Rebuild::FromType,
            [Value::Global(Global::Rebuild(inner)), Value::Global(Global::TensorType), inside, ..],
        ) if *inner != Rebuild::FromType => {
            let inside = heap.list(*inside).ok_or_else(few)?.to_vec();
            rebuilt(heap, allowance, *inner, &inside, at)
        }
        (Rebuild::FromType, _) => Err(invalid("a tensor of a type that is none")),
        (Rebuild::V1 | Rebuild::V2, [storage, offset, shape, strides, rest @ ..]) => {
            let bits = rest.get(2).copied();
            let parts = Parts { storage: *storage, offset: *offset, shape: *shape, strides: *strides, bits };
            tensor(heap, allowance, parts, None, at)
        }
        (
            Rebuild::V3,
            [storage, offset, shape, strides, _, _, Value::Global(Global::DType(dtype)), rest @ ..],
        ) => {
            let bits = rest.first().copied();
            let parts = Parts { storage: *storage, offset: *offset, shape: *shape, strides: *strides, bits };
            tensor(heap, allowance, parts, Some(*dtype), at)
        }
        _ => Err(few()),
    }
}

struct Parts {
    storage: Value,
    offset: Value,
    shape: Value,
    strides: Value,
    /// A dictionary of the bits `conj` and `neg`, in newer files.
    bits: Option<Value>,
}

/// `dtype` is what the file states beside the storage: `Some(None)` for one that we have not.
fn tensor(
    heap: &mut Heap,
    allowance: &mut Allowance,
    parts: Parts,
    dtype: Option<Option<DType>>,
    at: u32,
) -> Result<Value, Fault> {
    const NO_DTYPE: &str = "of a dtype that only PyTorch has";
    let Some(Node::Storage(storage)) = heap.get(parts.storage) else {
        return Err(invalid("a tensor of what is no storage"));
    };
    let storage = **storage;
    let dtype = match (dtype, storage.element) {
        (Some(stated), _) => stated,
        (None, Element::Typed(dtype)) => Some(dtype),
        (None, Element::Unknown(_)) => None,
        (None, Element::Untyped) => return Err(invalid("a tensor without a dtype")),
    };
    let Some(dtype) = dtype else {
        return heap.add(Node::Unreadable(NO_DTYPE), allowance);
    };
    if has_bits(heap, parts.bits) {
        let why = "stored to be negated or conjugated when it is loaded";
        return heap.add(Node::Unreadable(why), allowance);
    }
    let list = |value: Value| heap.list(value).ok_or_else(|| invalid("a shape that is no list"));
    let (shape, strides) = (list(parts.shape)?, list(parts.strides)?);
    if shape.len() != strides.len() {
        return Err(invalid("a shape and strides of different lengths"));
    }
    allowance.take(size_of::<Tensor>() + 16 * shape.len())?;
    let tensor = Tensor {
        storage,
        dtype,
        offset: whole(parts.offset)?,
        shape: shape.iter().map(|&d| extent(d)).collect::<Result<_, _>>()?,
        strides: strides.iter().map(|&d| whole(d)).collect::<Result<_, _>>()?,
        at,
    };
    heap.add(Node::Tensor(Box::new(tensor)), allowance)
}

/// Whether one of the bits is set that change what the bytes mean.
fn has_bits(heap: &Heap, bits: Option<Value>) -> bool {
    match bits.and_then(|bits| heap.get(bits)) {
        Some(Node::Dict(pairs)) => pairs.iter().any(|(_, value)| *value == Value::Bool(true)),
        _ => false,
    }
}

fn whole(value: Value) -> Result<u64, Fault> {
    match value {
        Value::Int(n) => u64::try_from(n).map_err(|_| invalid("a negative offset, extent or stride")),
        _ => Err(invalid("an offset, extent or stride that is no whole number of 64 bits")),
    }
}

fn extent(value: Value) -> Result<usize, Fault> {
    usize::try_from(whole(value)?).map_err(|_| invalid("an extent that does not fit"))
}

/// Reads `('storage', type, key, device, count)`, with the view of older files.
pub(super) fn storage(heap: &Heap, id: Value, text: &[u8]) -> Result<Storage, Fault> {
    let items = heap.list(id).unwrap_or_default();
    let [Value::Text(word), kind, key, _device, count, rest @ ..] = items else {
        return Err(invalid("a persistent id that is no storage"));
    };
    if word.of(text) != b"storage" {
        let word = String::from_utf8_lossy(word.of(text)).into_owned();
        return Err(Fault::new(SourceErrorKind::Invalid, format!("a persistent id of {}", quoted(&word))));
    }
    let Value::Global(Global::Storage(element)) = kind else {
        return Err(invalid("a storage of no type"));
    };
    let Value::Text(key) = key else {
        return Err(invalid("a storage whose key is no string"));
    };
    let view_offset = match rest.first().map(|view| (view, heap.list(*view))) {
        None | Some((Value::None, _)) => 0,
        Some((_, Some([_, offset, _]))) => whole(*offset)?,
        Some(_) => return Err(invalid("a view of a storage that is none")),
    };
    let key = Span { start: key.start, len: key.len };
    Ok(Storage { element: *element, key, count: whole(*count)?, view_offset })
}
