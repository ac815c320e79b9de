//! What `torch.save` wrote before it wrote zip archives (and still does where it is asked to):
//! five pickles, then each storage after its number of elements.

use std::collections::HashMap;

use vram_types::{FileId, SourceError, SourceErrorKind};

use super::heap::{Element, Heap, Node, Value};
use super::pickle::{self, Unpickled};
use super::state::{self, Place, Places};
use crate::catalog::contents::Contents;
use crate::catalog::names::Names;
use crate::fault::{Fault, quoted};
use crate::format::safetensors::header::MOST_HEADER_BYTES;
use crate::io::{Storage, read_exact};

/// What every such file begins with, behind its pickle protocol: a pickle of PyTorch's magic
/// number.
const MAGIC: [u8; 13] = *b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Bytes of the magic number's pickle, at most.
pub(crate) const MOST_MAGIC_BYTES: usize = 2 + 9 + MAGIC.len();
const PROTOCOL: i64 = 1001;
/// Bytes that are read at first; nobody says how long the pickles are.
const FIRST_BYTES: u64 = 16 << 10;

/// The length of the magic number's pickle, if a file begins with it.
pub(crate) fn magic(begin: &[u8]) -> Option<usize> {
    let [0x80, protocol @ 2..=5, rest @ ..] = begin else { return None };
    // From protocol 4 on, a frame is around it.
    let framed = *protocol >= 4 && rest.first() == Some(&0x95);
    let before = if framed { 9 } else { 0 };
    rest.get(before..)?.starts_with(&MAGIC).then_some(2 + before + MAGIC.len())
}

/// Reads the pickles behind the magic number, and the eight bytes before each storage.
pub(crate) fn read(
    file: &dyn Storage,
    id: FileId,
    magic: usize,
    names: &mut Names,
) -> Result<Contents, SourceError> {
    let failed = |f: Fault| file.named(f.into_error());
    let mut text = Vec::new();
    let pickles = loop {
        let longer = (text.len() as u64 * 2).max(FIRST_BYTES).min(file.bytes());
        let before = text.len();
        text.resize(longer as usize, 0);
        read_exact(file, &mut text[before..], before as u64)?;
        match Pickles::read(&text, magic) {
            // The pickles go on beyond what has been read.
            Err(f) if f.kind == SourceErrorKind::Truncated && longer < file.bytes() => {
                if longer >= MOST_HEADER_BYTES {
                    let message = format!("pickles of more than {MOST_HEADER_BYTES} bytes");
                    return Err(failed(Fault::new(SourceErrorKind::Invalid, message)));
                }
            }
            result => break result.map_err(failed)?,
        }
    };
    let read = text.len() as u64;
    let mut storages = locate(file, &pickles, &text)?;
    let bytes_read = read + 8 * storages.0.len() as u64;
    let contents = state::contents(&text, pickles.state, 0, id, names, &mut storages).map_err(failed)?;
    Ok(Contents { bytes_read, ..contents })
}

/// The last two of the five pickles.
struct Pickles {
    state: Unpickled,
    keys: Unpickled,
    /// Where the storages begin.
    end: usize,
}

impl Pickles {
    fn read(text: &[u8], magic: usize) -> Result<Pickles, Fault> {
        let mut at = magic;
        let mut next = || {
            let unpickled = pickle::read(text, at, text.len() - at.min(text.len()))?;
            at += unpickled.bytes;
            Ok::<Unpickled, Fault>(unpickled)
        };
        let protocol = next()?;
        if protocol.root != Value::Int(PROTOCOL) {
            let message = format!("not the protocol {PROTOCOL} of PyTorch's files");
            return Err(Fault::invalid(magic, message));
        }
        next()?; // what the writer's machine was: the numbers are little-endian whatever it says
        let state = next()?;
        state::is_container(&state, text)?;
        let keys = next()?;
        Ok(Pickles { state, keys, end: at })
    }
}

/// Where each storage is, by its key.
struct Storages(HashMap<String, Place>);

impl Places for Storages {
    type Error = Fault;

    fn place(&mut self, key: &str) -> Result<Place, Fault> {
        self.0.get(key).copied().ok_or_else(|| {
            let message = format!("the file lists no storage {}", quoted(key));
            Fault::new(SourceErrorKind::Truncated, message)
        })
    }
}

fn locate(file: &dyn Storage, pickles: &Pickles, text: &[u8]) -> Result<Storages, SourceError> {
    let elements = elements(&pickles.state.heap, text);
    let mut storages = HashMap::new();
    let mut at = pickles.end as u64;
    for &key in pickles.keys.heap.list(pickles.keys.root).unwrap_or_default() {
        let invalid =
            |message: String| file.named(SourceError::new(SourceErrorKind::Invalid, message)).at_offset(at);
        let Value::Text(key) = key else {
            return Err(invalid("a storage whose key is no string".to_owned()));
        };
        let key = key.of(text);
        let name = String::from_utf8_lossy(key).into_owned();
        let Some(&(element, count)) = elements.get(key) else {
            return Err(invalid(format!("the storage {} belongs to no tensor", quoted(&name))));
        };
        let mut stated = [0; 8];
        if at.checked_add(8).is_none_or(|end| end > file.bytes()) {
            let message = format!("the storage {} is not there", quoted(&name));
            return Err(file.named(SourceError::new(SourceErrorKind::Truncated, message)).at_offset(at));
        }
        read_exact(file, &mut stated, at)?;
        let stated = u64::from_le_bytes(stated);
        if stated != count {
            let message = format!("the storage {} has {stated} elements here, {count} before", quoted(&name));
            return Err(invalid(message));
        }
        let begin = at + 8;
        let end = count.checked_mul(element.bytes()).and_then(|bytes| begin.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= file.bytes()) else {
            let message = format!("the storage {} reaches beyond the file", quoted(&name));
            return Err(file.named(SourceError::new(SourceErrorKind::Truncated, message)).at_offset(at));
        };
        let place = Place { at: begin, bytes: end - begin, swapped: false };
        if storages.insert(name.clone(), place).is_some() {
            return Err(invalid(format!("the storage {} is listed twice", quoted(&name))));
        }
        at = end;
    }
    Ok(Storages(storages))
}

/// Element and number of elements of each storage that the state names, by key.
fn elements<'a>(heap: &Heap, text: &'a [u8]) -> HashMap<&'a [u8], (Element, u64)> {
    let storages = heap.nodes.iter().filter_map(|node| match node {
        Node::Storage(storage) => Some(storage),
        _ => None,
    });
    storages.map(|storage| (storage.key.of(text), (storage.element, storage.count))).collect()
}
