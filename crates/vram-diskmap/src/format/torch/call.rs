//! What the known functions give back, what unknown ones leave, and what a persistent id stands
//! for.

use vram_types::{DType, SourceErrorKind};

use super::arrays;
use super::heap::{
    Allowance, Element, Global, Heap, Node, Rebuild, Span, Storage, Tensor, Value, Why, extent, invalid,
    whole,
};
use crate::fault::{Fault, quoted};

/// Most arguments among which an unknown one is looked for.
const MOST_ARGUMENTS: usize = 16;

/// Applies a function to a list of arguments. What an unknown function would give back is an
/// object of its name, and so is what a known one makes of an unknown object.
pub(super) fn call(
    heap: &mut Heap,
    allowance: &mut Allowance,
    function: Value,
    arguments: Value,
    text: &[u8],
    at: u32,
) -> Result<Value, Fault> {
    if let Some(asked) = heap.foreign(function) {
        return object(heap, allowance, asked, &[function, arguments]);
    }
    let Some(global) = heap.global(function) else {
        return match heap.get(function) {
            // An object of a known type: what it does when it is called is unknown all the same.
            Some(Node::Tensor(_) | Node::Unreadable(_)) => Err(invalid("a call of a tensor")),
            _ => Err(invalid("a call of what is no function")),
        };
    };
    match known(heap, allowance, global, arguments, (text, at)) {
        Err(fault) => match (unknown_argument(heap, arguments, 2), global) {
            (None, _) => Err(fault),
            (Some(asked), Global::Rebuild(_)) => heap.add(Node::Unreadable(Why::Needs(asked)), allowance),
            (Some(asked), _) => object(heap, allowance, asked, &[arguments]),
        },
        value => value,
    }
}

/// An object that nothing is known of but the name that it was made with.
pub(super) fn object(
    heap: &mut Heap,
    allowance: &mut Allowance,
    asked: u32,
    from: &[Value],
) -> Result<Value, Fault> {
    let mut parts = Vec::new();
    for &part in from.iter().filter(|&&part| heap.get(part).is_some()) {
        allowance.push(&mut parts, part)?;
    }
    heap.add(Node::Object { asked, parts }, allowance)
}

/// The first unknown name among arguments, or in lists among them.
fn unknown_argument(heap: &Heap, arguments: Value, depth: u32) -> Option<u32> {
    heap.list(arguments)?.iter().take(MOST_ARGUMENTS).find_map(|&value| match depth {
        0 => heap.foreign(value),
        _ => heap.foreign(value).or_else(|| unknown_argument(heap, value, depth - 1)),
    })
}

fn known(
    heap: &mut Heap,
    allowance: &mut Allowance,
    function: Global,
    arguments: Value,
    (text, at): (&[u8], u32),
) -> Result<Value, Fault> {
    let items = heap.list(arguments).unwrap_or_default();
    // No function looks at more of them than the first few.
    let items = items.get(..MOST_ARGUMENTS.min(items.len())).unwrap_or_default().to_vec();
    let copied = size_of_val(&*items);
    allowance.take(copied)?;
    let value = match function {
        Global::Dict | Global::Counter => dict(heap, allowance, &items),
        Global::DefaultDict => dict(heap, allowance, items.get(1..).unwrap_or_default()),
        Global::Set | Global::Size => match items.as_slice() {
            [] => heap.add(Node::List(Vec::new()), allowance),
            [only] if heap.list(*only).is_some() => Ok(*only),
            _ => Err(invalid("a size or a set of what is no list")),
        },
        Global::Encode => encode(&items, text),
        Global::Rebuild(rebuild) => rebuilt(heap, allowance, rebuild, &items, at),
        Global::Numpy(numpy) => arrays::call(heap, allowance, numpy, &items, text, at),
        // A parameter is made of its tensor; the oldest tensors are made empty and filled later.
        Global::TensorType => match items.as_slice() {
            [] => heap.add(Node::Unreadable(Why::Empty), allowance),
            [data, ..] if matches!(heap.get(*data), Some(Node::Tensor(_) | Node::Unreadable(_))) => Ok(*data),
            _ if unknown_argument(heap, arguments, 0).is_some() => Err(invalid("a parameter of an object")),
            _ => heap.add(Node::Unreadable(Why::Is("made of what is no tensor")), allowance),
        },
        Global::Storage(_) | Global::DType(_) => Err(invalid("a call of what is no function")),
    };
    allowance.give(copied);
    value
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
        (Rebuild::Other(why), _) => heap.add(Node::Unreadable(Why::Is(why)), allowance),
        (Rebuild::Parameter, [data, ..]) => parameter(heap, *data),
        (Rebuild::Device, [data, dtype, ..]) => on_device(heap, allowance, *data, *dtype),
        (Rebuild::FromType, [inner, kind, inside, ..]) => match (heap.global(*inner), heap.global(*kind)) {
            (Some(Global::Rebuild(inner)), Some(Global::TensorType)) if inner != Rebuild::FromType => {
                let inside = heap.list(*inside).ok_or_else(few)?;
                let inside = inside.get(..MOST_ARGUMENTS.min(inside.len())).unwrap_or_default().to_vec();
                rebuilt(heap, allowance, inner, &inside, at)
            }
            _ => Err(invalid("a tensor of a type that is none")),
        },
        (Rebuild::V1 | Rebuild::V2, [storage, offset, shape, strides, rest @ ..]) => {
            let bits = rest.get(2).copied();
            let parts = Parts { storage: *storage, offset: *offset, shape: *shape, strides: *strides, bits };
            tensor(heap, allowance, parts, None, at)
        }
        (Rebuild::V3, [storage, offset, shape, strides, _, _, dtype, rest @ ..]) => {
            let Some(Global::DType(dtype)) = heap.global(*dtype) else {
                return Err(invalid("a tensor of a dtype that is none"));
            };
            let bits = rest.first().copied();
            let parts = Parts { storage: *storage, offset: *offset, shape: *shape, strides: *strides, bits };
            tensor(heap, allowance, parts, Some(dtype), at)
        }
        _ => Err(few()),
    }
}

/// The tensor that a parameter is.
fn parameter(heap: &Heap, data: Value) -> Result<Value, Fault> {
    match heap.get(data) {
        Some(Node::Tensor(_) | Node::Unreadable(_)) => Ok(data),
        _ => Err(invalid("a parameter of what is no tensor")),
    }
}

/// Gives an empty tensor its storage, offset, extents and strides, as files from before PyTorch 0.2
/// have them. It stays empty where its state is something else.
pub(super) fn fill(
    heap: &mut Heap,
    allowance: &mut Allowance,
    empty: Value,
    state: Value,
    at: u32,
) -> Result<(), Fault> {
    let Some(&[storage, offset, shape, strides]) = heap.list(state) else { return Ok(()) };
    let parts = Parts { storage, offset, shape, strides, bits: None };
    let filled = match tensor(heap, allowance, parts, None, at) {
        Ok(filled) => heap.get_mut(filled).map(|node| std::mem::replace(node, Node::Unreadable(Why::Empty))),
        Err(fault) => match unknown_argument(heap, state, 0) {
            Some(asked) => Some(Node::Unreadable(Why::Needs(asked))),
            None => return Err(fault),
        },
    };
    if let (Some(node), Some(filled)) = (heap.get_mut(empty), filled) {
        *node = filled;
    }
    Ok(())
}

/// A tensor or an array that is cast and copied to a device where it is loaded.
fn on_device(heap: &mut Heap, allowance: &mut Allowance, data: Value, dtype: Value) -> Result<Value, Fault> {
    let stored = match heap.get(data) {
        Some(Node::Tensor(tensor)) => tensor.dtype,
        Some(Node::Array(Some(array))) => array.dtype,
        Some(Node::Unreadable(_)) => return Ok(data),
        _ => return Err(invalid("a tensor of a device of what is no tensor")),
    };
    match heap.global(dtype) {
        Some(Global::DType(Some(dtype))) if dtype == stored => Ok(data),
        Some(Global::DType(_)) => {
            heap.add(Node::Unreadable(Why::Is("stored to be cast when it is loaded")), allowance)
        }
        _ => Err(invalid("a tensor of a dtype that is none")),
    }
}

/// Bytes that are spelt as text.
fn encode(arguments: &[Value], text: &[u8]) -> Result<Value, Fault> {
    match arguments {
        [Value::Text(spelt), Value::Text(encoding)]
            if [&b"latin1"[..], b"latin-1"].contains(&encoding.of(text)) =>
        {
            Ok(Value::Latin1(*spelt))
        }
        _ => Err(Fault::new(SourceErrorKind::Unsupported, "text in another encoding than latin1")),
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
    let storage = match heap.get(parts.storage) {
        Some(Node::Storage(storage)) => **storage,
        _ => return Err(invalid("a tensor of what is no storage")),
    };
    if storage.is_meta {
        return heap.add(Node::Unreadable(Why::Is("a meta tensor has no bytes")), allowance);
    }
    let dtype = match (dtype, storage.element) {
        (Some(stated), _) => stated,
        (None, Element::Typed(dtype)) => Some(dtype),
        (None, Element::Unknown(_)) => None,
        (None, Element::Untyped) => return Err(invalid("a tensor without a dtype")),
    };
    let Some(dtype) = dtype else {
        return heap.add(Node::Unreadable(Why::Is(NO_DTYPE)), allowance);
    };
    if has_bits(heap, parts.bits) {
        let why = "stored to be negated or conjugated when it is loaded";
        return heap.add(Node::Unreadable(Why::Is(why)), allowance);
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

/// What a persistent id stands for.
pub(super) enum Persistent {
    Storage(Storage),
    /// A storage of the type of that unknown name.
    Object(u32),
    Value(Value),
}

/// Reads `('storage', type, key, device, count)`, with the view of older files, or
/// `('module', class, ...)`, which stands for the class.
pub(super) fn persistent(heap: &Heap, id: Value, text: &[u8]) -> Result<Persistent, Fault> {
    let items = heap.list(id).unwrap_or_default();
    let [Value::Text(word), kind, rest @ ..] = items else {
        return Err(invalid("a persistent id that is no storage"));
    };
    match (word.of(text), rest) {
        (b"storage", [key, device, count, rest @ ..]) => {
            if let Some(asked) = heap.foreign(*kind) {
                return Ok(Persistent::Object(asked));
            }
            let Some(Global::Storage(element)) = heap.global(*kind) else {
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
            let is_meta = matches!(device, Value::Text(device) if device.of(text) == b"meta");
            Ok(Persistent::Storage(Storage { element, key, count: whole(*count)?, view_offset, is_meta }))
        }
        (b"storage", _) => Err(invalid("a persistent id that is no storage")),
        (b"module", _) => Ok(Persistent::Value(*kind)),
        (word, _) => {
            let word = String::from_utf8_lossy(word).into_owned();
            Err(Fault::new(SourceErrorKind::Invalid, format!("a persistent id of {}", quoted(&word))))
        }
    }
}
