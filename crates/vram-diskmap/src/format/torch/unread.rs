//! What a pickle holds that is no tensor, number or text: described for the list of what was left
//! unread.

use super::heap::{Allowance, Heap, Node, Span, Value};
use crate::fault::{Fault, quoted};

/// Counts the tensors inside objects, each once.
#[derive(Default)]
pub(super) struct Inside {
    seen: Vec<bool>,
}

impl Inside {
    /// Tensors below a value that have not been counted before.
    pub(super) fn tensors(
        &mut self,
        heap: &Heap,
        value: Value,
        allowance: &mut Allowance,
    ) -> Result<usize, Fault> {
        if self.seen.is_empty() {
            allowance.take(heap.nodes.len())?;
            self.seen = vec![false; heap.nodes.len()];
        }
        let (mut found, mut ahead) = (0, Vec::new());
        allowance.push(&mut ahead, value)?;
        while let Some(value) = ahead.pop() {
            let Value::Node(number) = value else { continue };
            match self.seen.get_mut(number as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            match heap.get(value) {
                Some(Node::Tensor(_) | Node::Unreadable(_) | Node::Array(Some(_))) => found += 1,
                Some(Node::List(items) | Node::Object { parts: items, .. }) => {
                    for &item in items {
                        allowance.push(&mut ahead, item)?;
                    }
                }
                Some(Node::Dict(pairs)) => {
                    for &(key, value) in pairs {
                        allowance.push(&mut ahead, key)?;
                        allowance.push(&mut ahead, value)?;
                    }
                }
                _ => {}
            }
        }
        allowance.give(ahead.capacity() * size_of::<Value>());
        Ok(found)
    }
}

/// What an unread value is, in a few words.
pub(super) fn described(heap: &Heap, value: Value, text: &[u8]) -> String {
    let named = |asked| quoted(&heap.path(asked, text));
    match value {
        Value::Global(asked) => format!("the name {}", named(asked)),
        Value::Bytes(span) => format!("{} bytes", span.len),
        Value::Latin1(span) => {
            let bytes = String::from_utf8_lossy(span.of(text)).chars().count();
            format!("{bytes} bytes")
        }
        Value::Long(span) => format!("a whole number of {} bytes", span.len),
        _ => match heap.get(value) {
            Some(Node::Object { asked, .. }) => format!("an object of {}", named(*asked)),
            Some(Node::Array(_)) => "a NumPy array of text, objects or fields".to_owned(),
            Some(Node::ArrayType(_)) => "a dtype of NumPy".to_owned(),
            Some(Node::Storage(_)) => "a storage without a tensor".to_owned(),
            _ => "a value".to_owned(),
        },
    }
}

/// What a dictionary's key is as Python's `str` has it; `None` for a key without a text, and for a
/// tuple whose text is long.
pub(super) fn key(heap: &Heap, key: Value, text: &[u8]) -> Option<String> {
    match key {
        Value::Text(span) => Some(String::from_utf8_lossy(span.of(text)).into_owned()),
        _ => spelt(heap, key, text, &mut MOST_SPELT.clone(), 0),
    }
}

/// Bytes of a key's text, and the deepest nesting of a tuple that is one.
const MOST_SPELT: usize = 1 << 10;
const MOST_NESTED: usize = 4;

/// A key, or a part of one, as Python's `repr` has it, within `room` bytes.
fn spelt(heap: &Heap, key: Value, text: &[u8], room: &mut usize, depth: usize) -> Option<String> {
    let bytes = |span: Span| Some(span.of(text)).filter(|bytes| bytes.len() <= MOST_SPELT);
    let word = match key {
        Value::Text(span) => format!("'{}'", String::from_utf8_lossy(bytes(span)?)),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => format!("{x:?}"),
        Value::Bool(yes) => if yes { "True" } else { "False" }.to_owned(),
        Value::None => "None".to_owned(),
        Value::Latin1(span) | Value::Bytes(span) => format!("b'{}'", bytes(span)?.escape_ascii()),
        _ => {
            let items = heap.list(key).filter(|items| items.len() <= MOST_SPELT && depth < MOST_NESTED)?;
            *room = room.checked_sub(2)?;
            let items: Option<Vec<String>> =
                items.iter().map(|&item| spelt(heap, item, text, room, depth + 1)).collect();
            return Some(match items?.as_slice() {
                [only] => format!("({only},)"),
                items => format!("({})", items.join(", ")),
            });
        }
    };
    *room = room.checked_sub(word.len())?;
    Some(word)
}
