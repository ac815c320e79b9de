//! From what a pickle made to named tensors: dictionaries flattened with dots, tensors placed in
//! the file.

use std::collections::HashMap;

use vram_types::{FileId, SourceErrorKind, TensorMeta};

use super::heap::{Allowance, Array, Element, Global, Heap, Node, Tensor, Value, Why};
use super::pickle::Unpickled;
use super::unread::{self, Inside};
use super::{arrays, heap};
use crate::catalog::contents::{Contents, Unread, Unreadable};
use crate::catalog::names::Names;
use crate::catalog::tensor::{StridesRef, TensorInfo};
use crate::fault::{Fault, quoted};
use crate::format::json::quote;
use crate::read::strides::{self, Strides};

/// Deepest nesting of dictionaries and lists.
const MOST_NESTED: usize = 64;
/// Longest list of numbers that is kept as metadata.
const MOST_PRINTED: usize = 64;
/// Most things that are listed as unread one by one.
const MOST_LISTED: usize = 256;
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

/// Names and places every tensor. Offsets in the pickle become offsets in the file by adding
/// `pickle_at`.
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
        inside: Inside::default(),
        arrays_at: HashMap::new(),
        unlisted: 0,
    };
    walk.value(unwrapped(&heap, root, text), 0)?;
    walk.has_tensors()?;
    let Walk { mut contents, mut metadata, unlisted, .. } = walk;
    if unlisted > 0 {
        let what = format!("{unlisted} more objects that are not listed").into();
        contents.unread.push(Unread { name: "...".into(), what });
    }
    if metadata.len() > 1 {
        metadata.pop();
        metadata.push('}');
        contents.metadata = metadata.into();
    }
    Ok(contents)
}

/// Fails if the pickle is nothing but an object of an unknown name, or that name itself: a module
/// that was saved whole, or no checkpoint at all.
pub(super) fn is_container(unpickled: &Unpickled, text: &[u8]) -> Result<(), Fault> {
    let heap = &unpickled.heap;
    let asked = match (unpickled.root, heap.get(unpickled.root)) {
        (Value::Global(asked), _) | (_, Some(&Node::Object { asked, .. })) => asked,
        _ => return Ok(()),
    };
    let mut allowance = Allowance::new(text.len());
    let tensors = Inside::default().tensors(heap, unpickled.root, &mut allowance)?;
    let path = quoted(&heap.path(asked, text));
    let message = match tensors {
        _ if path.starts_with("\"__torch__") => {
            format!("{path} is a TorchScript module: load it with torch.jit.load and save its state_dict()")
        }
        0 => format!("the pickle asks for {path} and has no tensors: it is no checkpoint"),
        n => format!(
            "the pickle is one object of {path}, with {n} tensors inside; such an object is not built: load it \
             where its code is and save its state_dict()"
        ),
    };
    let at = heap.asked.get(asked as usize).map(|asked| u64::from(asked.module.start));
    Err(Fault { at, ..Fault::new(SourceErrorKind::Unsupported, message) })
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
    inside: Inside,
    /// First byte, length and file of the arrays whose bytes begin there in the pickle and are so
    /// long.
    arrays_at: HashMap<(u32, u32), (u64, u64, FileId)>,
    /// Unread things beyond those that are listed.
    unlisted: usize,
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
            Some(Node::Dict(pairs)) => {
                pairs.iter().try_for_each(|&(key, value)| match unread::key(heap, key, self.text) {
                    Some(key) => self.below(&key, value, depth),
                    None => Ok(self.keyed_by(key, value)?),
                })
            }
            Some(Node::List(items)) if items.iter().all(|&item| self.is_printable(item)) => {
                Ok(self.scalars(items)?)
            }
            Some(Node::List(items)) => {
                items.iter().zip(0u64..).try_for_each(|(&item, i)| self.below(&i.to_string(), item, depth))
            }
            Some(Node::Tensor(tensor)) => {
                let name = self.name(depth)?;
                self.tensor(tensor, &name)
            }
            Some(Node::Array(Some(array))) => {
                let name = self.name(depth)?;
                Ok(self.array(array, &name)?)
            }
            Some(Node::Unreadable(why)) => {
                let name = self.name(depth)?;
                let name = self.names.push(&name)?;
                let why = match *why {
                    Why::Is(why) => why.into(),
                    Why::Empty => "made without numbers".into(),
                    Why::Needs(asked) => {
                        let path = quoted(&heap.path(asked, self.text));
                        format!("made with {path}, which is unknown here").into()
                    }
                };
                let tensor = Unreadable { name, file: self.file, why };
                Ok(self.allowance.push(&mut self.contents.unreadable, tensor)?)
            }
            Some(Node::Object { .. } | Node::Storage(_) | Node::Array(None) | Node::ArrayType(_)) => {
                Ok(self.unread(value)?)
            }
        }
    }

    /// Walks what is under a key or a number.
    fn below(&mut self, key: &str, value: Value, depth: usize) -> Result<(), P::Error> {
        let len = self.prefix.len();
        if depth > 0 {
            self.prefix.push('.');
        }
        self.allowance.take(key.len())?;
        self.prefix.push_str(key);
        self.value(value, depth + 1)?;
        self.prefix.truncate(len);
        Ok(())
    }

    /// Lists a value that is not read, with the number of tensors inside.
    fn unread(&mut self, value: Value) -> Result<(), Fault> {
        if self.is_listed_enough() {
            return Ok(());
        }
        let tensors = self.inside.tensors(self.heap, value, &mut self.allowance)?;
        let what = unread::described(self.heap, value, self.text);
        self.list(with_tensors(what, tensors))
    }

    /// Lists an entry whose key has no text.
    fn keyed_by(&mut self, key: Value, value: Value) -> Result<(), Fault> {
        if self.is_listed_enough() {
            return Ok(());
        }
        let tensors = self.inside.tensors(self.heap, value, &mut self.allowance)?;
        let what = format!("an entry whose key is {}", unread::described(self.heap, key, self.text));
        self.list(with_tensors(what, tensors))
    }

    /// Whether so much is listed that the next is only counted.
    fn is_listed_enough(&mut self) -> bool {
        let enough = self.contents.unread.len() >= MOST_LISTED;
        self.unlisted += usize::from(enough);
        enough
    }

    fn list(&mut self, what: String) -> Result<(), Fault> {
        self.allowance.take(what.len() + self.prefix.len())?;
        let unread = Unread { name: self.prefix.as_str().into(), what: what.into() };
        self.allowance.push(&mut self.contents.unread, unread)
    }

    /// Fails if something was left unread and nothing else is there.
    fn has_tensors(&self) -> Result<(), Fault> {
        let contents = &self.contents;
        match contents.unread.first() {
            Some(first) if contents.tensors.is_empty() && contents.unreadable.is_empty() => {
                let message = format!(
                    "the pickle has no tensors that are read, only what is not: {}: {}",
                    first.name, first.what
                );
                Err(Fault { at: Some(self.pickle_at), ..Fault::new(SourceErrorKind::Unsupported, message) })
            }
            _ => Ok(()),
        }
    }

    /// The name of the tensor that the walk has come to.
    fn name(&mut self, depth: usize) -> Result<String, Fault> {
        let name = if depth == 0 { LONE_NAME } else { &self.prefix };
        // Kept once, in an arena that doubles.
        self.allowance.take(3 * name.len())?;
        Ok(name.to_owned())
    }

    /// Keeps a number or a text as metadata.
    fn scalar(&mut self, value: Value) -> Result<(), Fault> {
        match self.printed(value) {
            Some(text) => self.keep(&text),
            None => self.unread(value),
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
                (Value::Text(_) | Value::Global(_), Some(item)) => quote(&mut text, &item),
                (_, item) => text.push_str(&item.unwrap_or_default()),
            }
        }
        text.push(']');
        self.keep(&text)
    }

    /// Whether a value is a number, a text or a dtype.
    fn is_printable(&self, value: Value) -> bool {
        match value {
            Value::Text(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::None => true,
            _ => matches!(self.heap.global(value), Some(Global::DType(_))),
        }
    }

    fn printed(&self, value: Value) -> Option<String> {
        Some(match value {
            Value::Text(span) => String::from_utf8_lossy(span.of(self.text)).into_owned(),
            Value::Int(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            Value::Bool(yes) => if yes { "True" } else { "False" }.to_owned(),
            Value::None => "None".to_owned(),
            Value::Global(asked) => match self.heap.global(value) {
                Some(Global::DType(_)) => self.heap.path(asked, self.text),
                _ => return None,
            },
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

    /// Places an array: in the pickle, or among the decoded bytes.
    fn array(&mut self, array: &Array, name: &str) -> Result<(), Fault> {
        let at = self.pickle_at + u64::from(array.at);
        self.placed_array(array, name, at).map_err(|fault| Fault { at: Some(at), ..fault }.of(name))
    }

    fn placed_array(&mut self, array: &Array, name: &str, at: u64) -> Result<(), Fault> {
        let (place, file) = self.place(array)?;
        let elements = array.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let too_large = || Fault::new(SourceErrorKind::Invalid, "the size overflows");
        let count = elements.ok_or_else(too_large)?;
        let size = u64::from(array.dtype.bits() / 8);
        if count.checked_mul(size) != Some(place.bytes) {
            let message = format!("{} bytes for {count} elements of {size}", place.bytes);
            return Err(Fault::new(SourceErrorKind::Invalid, message));
        }
        let mut strides = vec![0; array.shape.len()];
        let mut step = 1u64;
        for i in 0..strides.len() {
            let i = if array.fortran { i } else { strides.len() - 1 - i };
            strides[i] = step;
            step = step.saturating_mul(array.shape[i] as u64);
        }
        let key = heap::Span { start: 0, len: 0 };
        let element = Element::Typed(array.dtype);
        let storage = heap::Storage { element, key, count, view_offset: 0, is_meta: false };
        let shape = array.shape.clone();
        let tensor = Tensor { storage, dtype: array.dtype, offset: 0, shape, strides, at: array.at };
        let placed = placed(&tensor, place, "of a NumPy array")?;
        self.keep_tensor(placed, name, at, file)
    }

    /// Where the bytes of an array are: in the pickle, or decoded from it, once for each place
    /// there, however many refer to it.
    fn place(&mut self, array: &Array) -> Result<(Place, FileId), Fault> {
        let (Value::Text(span) | Value::Bytes(span) | Value::Latin1(span)) = array.data else {
            return Err(Fault::new(SourceErrorKind::Invalid, "the numbers of a NumPy array are no bytes"));
        };
        let known = self.arrays_at.get(&(span.start, span.len)).copied();
        let (at, bytes, file) = match (known, known.is_none().then(|| arrays::spelt(array.data, self.text))) {
            (Some(known), _) => known,
            (None, None | Some(None)) => {
                (self.pickle_at + u64::from(span.start), u64::from(span.len), self.file)
            }
            (None, Some(Some(spelt))) => {
                self.allowance.take(2 * spelt.len() + 64)?;
                let (at, before) = (self.contents.decoded.len() as u64, self.contents.decoded.len());
                arrays::decode(spelt, &mut self.contents.decoded)?;
                let bytes = self.contents.decoded.len() - before;
                (at, bytes as u64, FileId(self.file.0.saturating_add(1)))
            }
        };
        if known.is_none() {
            self.allowance.take(64)?;
            self.arrays_at.insert((span.start, span.len), (at, bytes, file));
        }
        Ok((Place { at, bytes, swapped: array.swapped }, file))
    }

    fn tensor(&mut self, tensor: &Tensor, name: &str) -> Result<(), P::Error> {
        let at = self.pickle_at + u64::from(tensor.at);
        let key = std::str::from_utf8(tensor.storage.key.of(self.text)).unwrap_or_default();
        let place = self.places.place(key)?;
        let placed = placed(tensor, place, key).map_err(|fault| Fault { at: Some(at), ..fault }.of(name))?;
        Ok(self.keep_tensor(placed, name, at, self.file)?)
    }

    fn keep_tensor(&mut self, placed: Placed, name: &str, at: u64, file: FileId) -> Result<(), Fault> {
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
        let (block, raw) = (None, None);
        let info = TensorInfo { meta, offset, name, file, named_at, stored, block, raw, strides };
        self.allowance.push(&mut self.contents.tensors, info)
    }
}

fn with_tensors(what: String, tensors: usize) -> String {
    match tensors {
        0 => what,
        1 => format!("{what}, with a tensor inside"),
        n => format!("{what}, with {n} tensors inside"),
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
