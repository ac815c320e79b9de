//! From what a pickle made to named tensors: dictionaries flattened with dots, tensors placed in the file.

use std::fmt::Write as _;

use vram_types::{FileId, SourceErrorKind, TensorMeta};

use super::heap::{Allowance, Heap, Node, Tensor, Value};
use super::pickle::Unpickled;
use crate::contents::{Contents, StridesRef, Unreadable};
use crate::diskmap::TensorInfo;
use crate::fault::{Fault, quoted};
use crate::names::Names;
use crate::strides::{self, Strides};
use crate::write::quote;

/// Deepest nesting of dictionaries and lists.
const MOST_NESTED: usize = 64;
/// Longest list of numbers that is kept as metadata.
const MOST_PRINTED: usize = 64;
/// The name of a tensor that is all there is in a file.
const LONE_NAME: &str = "tensor";

/// Where the bytes of a storage are in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) bytes: u64,
    /// The bytes of each number are in the other order.
    pub(super) swapped: bool,
}

/// Finds the storages that a pickle names.
pub(super) trait Places {
    type Error: From<Fault>;
    /// Where the storage of that key is.
    fn place(&mut self, key: &str) -> Result<Place, Self::Error>;
}

/// Names and places every tensor. Offsets in the pickle become offsets in the file by adding `pickle_at`.
pub(super) fn contents<P: Places>(
    text: &[u8],
    unpickled: Unpickled,
    pickle_at: u64,
    file: FileId,
    names: &mut Names,
    places: &mut P,
) -> Result<Contents, P::Error> {
    let Unpickled { heap, root, allowance, .. } = unpickled;
    let mut walk = Walk {
        text,
        heap: &heap,
        allowance,
        pickle_at,
        file,
        names,
        places,
        prefix: String::new(),
        contents: Contents::default(),
        metadata: String::from("{"),
    };
    walk.value(unwrapped(&heap, root, text), 0)?;
    let Walk { mut contents, mut metadata, .. } = walk;
    if metadata.len() > 1 {
        metadata.pop();
        metadata.push('}');
        contents.metadata = metadata.into();
    }
    Ok(contents)
}

/// Drops a dictionary that holds nothing but the one that is meant.
fn unwrapped(heap: &Heap, root: Value, text: &[u8]) -> Value {
    match heap.get(root) {
        Some(Node::Dict(pairs)) => match pairs.as_slice() {
            &[(Value::Text(key), inner)]
                if [&b"state_dict"[..], b"module", b"model_state"].contains(&key.of(text))
                    && matches!(heap.get(inner), Some(Node::Dict(_))) =>
            {
                inner
            }
            _ => root,
        },
        _ => root,
    }
}

struct Walk<'a, P> {
    text: &'a [u8],
    heap: &'a Heap,
    allowance: Allowance,
    pickle_at: u64,
    file: FileId,
    names: &'a mut Names,
    places: &'a mut P,
    /// The name so far.
    prefix: String,
    contents: Contents,
    /// An object of JSON that lacks its end.
    metadata: String,
}

impl<P: Places> Walk<'_, P> {
    fn value(&mut self, value: Value, depth: usize) -> Result<(), P::Error> {
        // Whatever is shared is walked again, so the walk itself must be paid for.
        self.allowance.take(size_of::<Value>())?;
        if depth > MOST_NESTED {
            let message = format!("dictionaries nested deeper than {MOST_NESTED}");
            return Err(Fault::new(SourceErrorKind::Unsupported, message).into());
        }
        let heap = self.heap;
        match heap.get(value) {
            None => Ok(self.scalar(value)?),
            Some(Node::Dict(pairs)) => pairs.iter().try_for_each(|&(key, value)| {
                let len = self.enter(key)?;
                self.value(value, depth + 1)?;
                self.prefix.truncate(len);
                Ok(())
            }),
            Some(Node::List(items)) if items.iter().all(|&item| heap.get(item).is_none()) => {
                Ok(self.scalars(items)?)
            }
            Some(Node::List(items)) => items.iter().zip(0..).try_for_each(|(&item, i)| {
                let len = self.enter(Value::Int(i))?;
                self.value(item, depth + 1)?;
                self.prefix.truncate(len);
                Ok(())
            }),
            Some(Node::Tensor(tensor)) => {
                let name = self.name()?;
                self.tensor(tensor, &name)
            }
            Some(Node::Unreadable(why)) => {
                let name = self.name()?;
                let name = self.names.push(&name)?;
                let tensor = Unreadable { name, file: self.file, why: (*why).into() };
                Ok(self.allowance.push(&mut self.contents.unreadable, tensor)?)
            }
            // A storage by itself, or what refers to nothing: no tensor.
            Some(Node::Storage(_)) => Ok(()),
        }
    }

    /// Appends a key to the name; gives the name's length before.
    fn enter(&mut self, key: Value) -> Result<usize, Fault> {
        let len = self.prefix.len();
        if len > 0 {
            self.prefix.push('.');
        }
        match key {
            Value::Text(span) => {
                let text = std::str::from_utf8(span.of(self.text)).unwrap_or_default();
                self.allowance.take(text.len())?;
                self.prefix.push_str(text);
            }
            Value::Int(n) => {
                let _ = write!(self.prefix, "{n}");
            }
            _ => {
                let message =
                    format!("under {}: a key that is neither text nor number", quoted(&self.prefix));
                return Err(Fault::new(SourceErrorKind::Unsupported, message));
            }
        }
        Ok(len)
    }

    /// The name of the tensor that the walk has come to.
    fn name(&mut self) -> Result<String, Fault> {
        let name = if self.prefix.is_empty() { LONE_NAME } else { &self.prefix };
        // Kept once, in an arena that doubles.
        self.allowance.take(3 * name.len())?;
        Ok(name.to_owned())
    }

    /// Keeps a number or a text as metadata.
    fn scalar(&mut self, value: Value) -> Result<(), Fault> {
        match self.printed(value) {
            Some(text) => self.keep(&text),
            None => Ok(()),
        }
    }

    /// Keeps a list without tensors as metadata: a short one as JSON, a long one as its length.
    fn scalars(&mut self, items: &[Value]) -> Result<(), Fault> {
        if items.len() > MOST_PRINTED {
            return self.keep(&format!("[{} values]", items.len()));
        }
        let mut text = String::from("[");
        for (i, &item) in items.iter().enumerate() {
            text.push_str(if i > 0 { "," } else { "" });
            match (item, self.printed(item)) {
                (Value::Text(_), Some(item)) => quote(&mut text, &item),
                (_, item) => text.push_str(item.as_deref().unwrap_or("...")),
            }
        }
        text.push(']');
        self.keep(&text)
    }

    fn printed(&self, value: Value) -> Option<String> {
        Some(match value {
            Value::Text(span) => String::from_utf8_lossy(span.of(self.text)).into_owned(),
            Value::Int(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Bool(yes) => if yes { "True" } else { "False" }.to_owned(),
            Value::None => "None".to_owned(),
            _ => return None,
        })
    }

    fn keep(&mut self, text: &str) -> Result<(), Fault> {
        // Six bytes is the longest that one becomes in JSON.
        self.allowance.take(3 * 6 * (text.len() + self.prefix.len()) / 2 + 16)?;
        quote(&mut self.metadata, &self.prefix);
        self.metadata.push(':');
        quote(&mut self.metadata, text);
        self.metadata.push(',');
        Ok(())
    }

    fn tensor(&mut self, tensor: &Tensor, name: &str) -> Result<(), P::Error> {
        let at = self.pickle_at + u64::from(tensor.at);
        let key = std::str::from_utf8(tensor.storage.key.of(self.text)).unwrap_or_default();
        let place = self.places.place(key)?;
        let placed = placed(tensor, place, key).map_err(|fault| Fault { at: Some(at), ..fault }.of(name))?;
        let Placed { meta, offset, strides } = placed;
        let strides = match strides {
            Some(strides) => {
                self.allowance.push(&mut self.contents.strides, strides)?;
                Some(StridesRef::last(self.contents.strides.len())?)
            }
            None => None,
        };
        let name = self.names.push(name)?;
        let stored = meta.dtype();
        let named_at = u32::try_from(at).unwrap_or(0);
        let (file, block, raw) = (self.file, None, None);
        let info = TensorInfo { meta, offset, name, file, named_at, stored, block, raw, strides };
        Ok(self.allowance.push(&mut self.contents.tensors, info)?)
    }
}

struct Placed {
    meta: TensorMeta,
    offset: u64,
    strides: Option<Strides>,
}

/// Checks that every element of a tensor lies inside its storage, and says where.
fn placed(tensor: &Tensor, place: Place, key: &str) -> Result<Placed, Fault> {
    let invalid = |message: &'static str| Fault::new(SourceErrorKind::Invalid, message);
    let too_large = || invalid("the size overflows");
    let meta = TensorMeta::new(tensor.dtype, tensor.shape.as_slice())
        .map_err(|e| Fault::new(SourceErrorKind::Invalid, e.to_string()))?;
    let storage = &tensor.storage;
    let (unit, element) = (storage.element.bytes(), u64::from(tensor.dtype.bits() / 8));
    let stored = storage.count.checked_mul(unit).ok_or_else(too_large)?;
    if stored > place.bytes {
        let message = format!(
            "its storage {} should have {stored} bytes, the file has {} of them",
            quoted(key),
            place.bytes
        );
        return Err(Fault::new(SourceErrorKind::Truncated, message));
    }
    let begin = storage
        .view_offset
        .checked_mul(unit)
        .and_then(|view| view.checked_add(tensor.offset.checked_mul(element)?));
    let span = strides::span(&tensor.shape, &tensor.strides).and_then(|span| span.checked_mul(element));
    let (begin, span) = begin.zip(span).ok_or_else(too_large)?;
    if span == 0 {
        return Ok(Placed { meta, offset: place.at, strides: None });
    }
    if begin.checked_add(span).is_none_or(|end| end > stored) {
        let message =
            format!("bytes {begin} and {span} more of its storage {}, which has {stored}", quoted(key));
        return Err(Fault::new(SourceErrorKind::OutOfRange, message));
    }
    let swapped = place.swapped && element > 1;
    let strides = Strides::new(&tensor.shape, &tensor.strides, swapped);
    Ok(Placed { meta, offset: place.at + begin, strides })
}
