//! Pickled NumPy arrays and scalars: their bytes are in the pickle itself.

use vram_types::{DType, SourceErrorKind};

use super::heap::{
    Allowance, Array, ArrayType, Global, Heap, Node, Numpy, Span, Value, Why, extent, invalid,
};
use crate::fault::Fault;

/// Applies one of NumPy's functions.
pub(super) fn call(
    heap: &mut Heap,
    allowance: &mut Allowance,
    function: Numpy,
    arguments: &[Value],
    text: &[u8],
    at: u32,
) -> Result<Value, Fault> {
    let is_array = |heap: &Heap, value: Value| heap.global(value) == Some(Global::Numpy(Numpy::Array));
    match (function, arguments) {
        (Numpy::Reconstruct, [kind, ..]) if is_array(heap, *kind) => heap.add(Node::Array(None), allowance),
        (Numpy::DType, [Value::Text(code), ..]) => heap.add(Node::ArrayType(kind(code.of(text))), allowance),
        (Numpy::FromBuffer, [data, dtype, shape, order, ..]) => {
            let fortran = matches!(order, Value::Text(order) if order.of(text) == b"F");
            let node = array(heap, allowance, [*shape, *dtype, *data], fortran, at)?;
            heap.add(node, allowance)
        }
        (Numpy::Scalar, [dtype, data]) => match heap.get(*dtype) {
            Some(Node::ArrayType(kind)) => scalar(*kind, *data, text),
            _ => Err(invalid("a number of what is no dtype")),
        },
        _ => Err(invalid("a NumPy array of what makes none")),
    }
}

/// BUILD of an array, or of its dtype.
pub(super) fn build(
    heap: &mut Heap,
    allowance: &mut Allowance,
    target: Value,
    state: Value,
    text: &[u8],
    at: u32,
) -> Result<(), Fault> {
    let state = heap.list(state).unwrap_or_default();
    let node = match (heap.get(target), state) {
        (Some(Node::ArrayType(kind)), [_, Value::Text(order), ..]) => {
            Node::ArrayType(ArrayType { swapped: order.of(text) == b">", ..*kind })
        }
        (Some(Node::Array(_)), &[_, shape, dtype, fortran, data]) => {
            match (array(heap, allowance, [shape, dtype, data], fortran == Value::Bool(true), at), dtype) {
                (Ok(node), _) => node,
                (Err(fault), dtype) => match heap.foreign(dtype) {
                    Some(asked) => Node::Unreadable(Why::Needs(asked)),
                    None => return Err(fault),
                },
            }
        }
        _ => return Err(invalid("the state of a NumPy array that is none")),
    };
    if let Some(place) = heap.get_mut(target) {
        *place = node;
    }
    Ok(())
}

/// What an array of this shape, dtype and data is.
fn array(
    heap: &Heap,
    allowance: &mut Allowance,
    [shape, dtype, data]: [Value; 3],
    fortran: bool,
    at: u32,
) -> Result<Node, Fault> {
    let Some(Node::ArrayType(kind)) = heap.get(dtype) else {
        return Err(invalid("a NumPy array of what is no dtype"));
    };
    let Some(dtype) = kind.dtype else {
        return Ok(match kind.is_number {
            true => Node::Unreadable(Why::Is("a NumPy array of a dtype that PyTorch has not")),
            false => Node::Array(None),
        });
    };
    let shape = heap.list(shape).ok_or_else(|| invalid("a shape that is no list"))?;
    allowance.take(size_of::<Array>() + 8 * shape.len())?;
    let shape = shape.iter().map(|&d| extent(d)).collect::<Result<_, _>>()?;
    let array = Array { dtype, swapped: kind.swapped, fortran, shape, data, at };
    Ok(Node::Array(Some(Box::new(array))))
}

/// The text that bytes are spelt as, if that is not the bytes themselves.
pub(super) fn spelt(data: Value, text: &[u8]) -> Option<&str> {
    match data {
        Value::Latin1(span) if !span.of(text).is_ascii() => std::str::from_utf8(span.of(text)).ok(),
        _ => None,
    }
}

/// Appends the bytes that a text spells.
pub(super) fn decode(spelt: &str, bytes: &mut Vec<u8>) -> Result<(), Fault> {
    bytes.reserve(spelt.len());
    for character in spelt.chars() {
        let byte = u8::try_from(u32::from(character));
        bytes.push(byte.map_err(|_| invalid("bytes spelt with characters that are none"))?);
    }
    Ok(())
}

/// A number by itself.
fn scalar(kind: ArrayType, data: Value, text: &[u8]) -> Result<Value, Fault> {
    let wrong = || Fault::new(SourceErrorKind::Invalid, "a NumPy number of another size than its dtype's");
    let (Value::Text(span) | Value::Bytes(span) | Value::Latin1(span)) = data else {
        return Err(wrong());
    };
    // Two bytes for each at most; nothing longer is even looked at.
    if span.len > 2 * 16 {
        return Err(wrong());
    }
    let mut bytes = Vec::new();
    match spelt(data, text) {
        Some(spelt) => decode(spelt, &mut bytes)?,
        None => bytes.extend_from_slice(span.of(text)),
    }
    let Some(dtype) = kind.dtype else { return Ok(Value::Bytes(Span { start: 0, len: 0 })) };
    if bytes.len() != dtype.bits() as usize / 8 {
        return Err(wrong());
    }
    if kind.swapped {
        bytes.reverse();
    }
    let word = |signed: bool| {
        let sign = if signed && bytes.last().is_some_and(|&b| b >= 0x80) { 0xFF } else { 0 };
        let mut word = [sign; 8];
        word[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
        i64::from_le_bytes(word)
    };
    Ok(match dtype {
        DType::BOOL => Value::Bool(bytes != [0]),
        DType::F64 => Value::Float(f64::from_bits(word(false) as u64)),
        DType::F32 => Value::Float(f64::from(f32::from_bits(word(false) as u32))),
        DType::I8 | DType::I16 | DType::I32 | DType::I64 => Value::Int(word(true)),
        DType::U8 | DType::U16 | DType::U32 => Value::Int(word(false)),
        DType::U64 if word(false) >= 0 => Value::Int(word(false)),
        // Halves, complex and very large numbers are not worth their text.
        _ => Value::Bytes(Span { start: 0, len: 0 }),
    })
}

/// What the letter and the size of a dtype say, such as `f4`.
fn kind(code: &[u8]) -> ArrayType {
    let (swapped, code) = match code {
        [b'>', rest @ ..] => (true, rest),
        [b'<' | b'=' | b'|', rest @ ..] => (false, rest),
        _ => (false, code),
    };
    let dtype = match code {
        b"f8" => DType::F64,
        b"f4" => DType::F32,
        b"f2" => DType::F16,
        b"i8" => DType::I64,
        b"i4" => DType::I32,
        b"i2" => DType::I16,
        b"i1" => DType::I8,
        b"u8" => DType::U64,
        b"u4" => DType::U32,
        b"u2" => DType::U16,
        b"u1" => DType::U8,
        b"b1" => DType::BOOL,
        b"c8" => DType::C64,
        _ => {
            let is_number = matches!(code.first(), Some(b'f' | b'c' | b'i' | b'u'));
            return ArrayType { dtype: None, is_number, swapped };
        }
    };
    ArrayType { dtype: Some(dtype), is_number: true, swapped }
}
