//! A machine that reads pickles: it makes lists, dictionaries and descriptions of tensors, and
//! nothing else.
//!
//! Python's own machine imports and calls what a pickle names. This one knows the names of
//! [`globals`]; whatever is made with another name is kept as an object that nothing is known of,
//! and a name that would run something is refused. Memory is held to a multiple of the pickle's
//! length ([`Allowance`]).

use vram_types::SourceErrorKind;

use super::call::{self, Persistent};
use super::heap::{Allowance, Asked, Heap, Node, Span, Value, Why};
use super::{arrays, globals};
use crate::fault::{Fault, quoted};

/// Longest module or name that is asked for.
const MOST_NAME_BYTES: u32 = 1 << 10;

/// A pickle that was read.
pub(super) struct Unpickled {
    pub(super) heap: Heap,
    pub(super) root: Value,
    /// Bytes of the pickle, up to and with its STOP.
    pub(super) bytes: usize,
    /// What is left of the allowance.
    pub(super) allowance: Allowance,
}

/// Reads the pickle that begins at `start` of `text`. Offsets in faults count from the beginning
/// of `text`. What it makes is held to a multiple of `metadata_bytes`.
///
/// `Truncated` if the text ends before the pickle does.
pub(super) fn read(text: &[u8], start: usize, metadata_bytes: usize) -> Result<Unpickled, Fault> {
    if u32::try_from(text.len()).is_err() {
        return Err(Fault::new(SourceErrorKind::Unsupported, "a pickle of more than 4 GiB"));
    }
    let mut machine = Machine {
        text,
        at: start,
        op_at: start,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        heap: Heap::default(),
        allowance: Allowance::new(metadata_bytes),
    };
    let root = machine.run().map_err(|mut fault| {
        fault.at.get_or_insert(machine.op_at as u64);
        fault
    })?;
    Ok(Unpickled { heap: machine.heap, root, bytes: machine.at - start, allowance: machine.allowance })
}

struct Machine<'a> {
    text: &'a [u8],
    at: usize,
    /// Where the operation that is being performed begins.
    op_at: usize,
    stack: Vec<Value>,
    /// Lengths of the stack at each mark.
    marks: Vec<u32>,
    memo: Vec<Option<Value>>,
    heap: Heap,
    allowance: Allowance,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, Fault> {
        loop {
            self.op_at = self.at;
            let op = self.byte()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    fn step(&mut self, op: u8) -> Result<(), Fault> {
        match op {
            0x80 => self.protocol(),
            0x95 => self.bytes(8).map(drop),
            b'(' => {
                let len = self.stack.len() as u32;
                self.allowance.push(&mut self.marks, len)
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => self.unsigned(1).and_then(|n| self.push(Value::Int(n as i64))),
            b'M' => self.unsigned(2).and_then(|n| self.push(Value::Int(n as i64))),
            b'J' => self.unsigned(4).and_then(|n| self.push(Value::Int(i64::from(n as u32 as i32)))),
            0x8a => self.unsigned(1).and_then(|len| self.long(len)),
            0x8b => self.unsigned(4).and_then(|len| self.long(len)),
            b'G' => {
                let bits = self.bytes(8)?.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
                self.push(Value::Float(f64::from_bits(bits)))
            }
            b'X' => self.unsigned(4).and_then(|len| self.text(len)),
            0x8c => self.unsigned(1).and_then(|len| self.text(len)),
            b'T' => self.unsigned(4).and_then(|len| self.old_text(len)),
            b'U' => self.unsigned(1).and_then(|len| self.old_text(len)),
            0x8d => self.unsigned(8).and_then(|len| self.text(len)),
            b'C' => self.unsigned(1).and_then(|len| self.binary(len)),
            b'B' => self.unsigned(4).and_then(|len| self.binary(len)),
            0x8e | 0x96 => self.unsigned(8).and_then(|len| self.binary(len)),
            b')' | b']' | 0x8f => self.push_list(Vec::new()),
            b'}' => self.push_node(Node::Dict(Vec::new())),
            b't' | b'l' | 0x91 => self.marked().and_then(|from| self.list_from(from)),
            0x85 => self.list_of(1),
            0x86 => self.list_of(2),
            0x87 => self.list_of(3),
            b'a' => self.append(1),
            b'e' | 0x90 => self.marked().and_then(|from| self.append(self.stack.len() - from)),
            b'd' => self.dict(),
            b's' => self.set_items(2),
            b'u' => self.marked().and_then(|from| self.set_items(self.stack.len() - from)),
            b'q' => self.unsigned(1).and_then(|n| self.put(n)),
            b'r' => self.unsigned(4).and_then(|n| self.put(n)),
            0x94 => self.put(self.memo.len() as u64),
            b'h' => self.unsigned(1).and_then(|n| self.recall(n)),
            b'j' => self.unsigned(4).and_then(|n| self.recall(n)),
            b'0' => self.discard(),
            b'1' => self.marked().map(|from| self.stack.truncate(from)),
            b'2' => self.top().and_then(|top| self.push(top)),
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'R' | 0x81 => self.call(),
            0x92 => self.pop().and_then(|named| self.call_with(Some(named))),
            b'o' => self.call_marked(),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            other => Err(self.invalid(format!("the operation {other:#04x} is none that is read"))),
        }
    }

    fn protocol(&mut self) -> Result<(), Fault> {
        match self.byte()? {
            2..=5 => Ok(()),
            other => Err(self.unsupported(format!("pickle protocol {other}; 2 to 5 are read"))),
        }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let text = self.text;
        let bytes = self.at.checked_add(len).and_then(|end| text.get(self.at..end)).ok_or_else(|| {
            let message = "the pickle ends inside an operation";
            Fault { at: Some(self.op_at as u64), ..Fault::new(SourceErrorKind::Truncated, message) }
        })?;
        self.at += len;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.unsigned(1).map(|byte| byte as u8)
    }

    fn unsigned(&mut self, len: usize) -> Result<u64, Fault> {
        Ok(self.bytes(len)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn span(&mut self, len: u64) -> Result<Span, Fault> {
        let start = self.at as u32;
        self.bytes(usize::try_from(len).unwrap_or(usize::MAX))?;
        Ok(Span { start, len: len as u32 })
    }

    fn text(&mut self, len: u64) -> Result<(), Fault> {
        let span = self.span(len)?;
        if std::str::from_utf8(span.of(self.text)).is_err() {
            return Err(self.invalid("a string that is not UTF-8"));
        }
        self.push(Value::Text(span))
    }

    /// A string of Python 2, whose bytes may be anything.
    fn old_text(&mut self, len: u64) -> Result<(), Fault> {
        let span = self.span(len)?;
        match std::str::from_utf8(span.of(self.text)) {
            Ok(_) => self.push(Value::Text(span)),
            Err(_) => self.push(Value::Bytes(span)),
        }
    }

    fn binary(&mut self, len: u64) -> Result<(), Fault> {
        let span = self.span(len)?;
        self.push(Value::Bytes(span))
    }

    /// A whole number of so many bytes, in two's complement.
    fn long(&mut self, len: u64) -> Result<(), Fault> {
        let span = self.span(len)?;
        let bytes = span.of(self.text);
        if bytes.len() > 8 {
            return self.push(Value::Long(span));
        }
        let sign = if bytes.last().is_some_and(|&b| b >= 0x80) { 0xFF } else { 0 };
        let mut number = [sign; 8];
        number[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(number)))
    }

    fn push(&mut self, value: Value) -> Result<(), Fault> {
        self.allowance.push(&mut self.stack, value)
    }

    fn push_node(&mut self, node: Node) -> Result<(), Fault> {
        let value = self.heap.add(node, &mut self.allowance)?;
        self.push(value)
    }

    fn push_list(&mut self, items: Vec<Value>) -> Result<(), Fault> {
        self.push_node(Node::List(items))
    }

    /// The lowest place of the stack that may be taken from: values below a mark belong to whoever
    /// set it.
    fn floor(&self) -> usize {
        self.marks.last().map_or(0, |&mark| mark as usize)
    }

    fn top(&self) -> Result<Value, Fault> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(self.invalid("the stack is empty")),
        }
    }

    fn pop(&mut self) -> Result<Value, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Takes the last mark away; gives the stack's length when it was set.
    fn marked(&mut self) -> Result<usize, Fault> {
        self.marks.pop().map(|mark| mark as usize).ok_or_else(|| self.invalid("there is no mark"))
    }

    /// POP also takes a mark away.
    fn discard(&mut self) -> Result<(), Fault> {
        if self.marks.last().is_some_and(|&mark| mark as usize == self.stack.len()) {
            self.marks.pop();
            return Ok(());
        }
        self.pop().map(drop)
    }

    fn list_of(&mut self, count: usize) -> Result<(), Fault> {
        match self.stack.len().checked_sub(count) {
            Some(from) if from >= self.floor() => self.list_from(from),
            _ => Err(self.invalid("the stack is empty")),
        }
    }

    fn list_from(&mut self, from: usize) -> Result<(), Fault> {
        self.allowance.take((self.stack.len() - from) * size_of::<Value>())?;
        let items = self.stack.get(from..).unwrap_or_default().to_vec();
        self.stack.truncate(from);
        self.push_list(items)
    }

    fn append(&mut self, count: usize) -> Result<(), Fault> {
        let from = self.stack.len().checked_sub(count).filter(|&from| from >= self.floor());
        let Some(from) = from.filter(|&from| from > self.floor()) else {
            return Err(self.invalid("the stack is empty"));
        };
        let target = self.stack[from - 1];
        match self.heap.get_mut(target) {
            Some(Node::List(items)) => {
                for &item in &self.stack[from..] {
                    self.allowance.push(items, item)?;
                }
            }
            Some(Node::Object { parts, .. }) => {
                for &item in &self.stack[from..] {
                    self.allowance.push(parts, item)?;
                }
            }
            _ => return Err(self.invalid("items are appended to what is no list")),
        }
        self.stack.truncate(from);
        Ok(())
    }

    fn dict(&mut self) -> Result<(), Fault> {
        let from = self.marked()?;
        let items = self.stack.split_off(from);
        self.push_node(Node::Dict(Vec::new()))?;
        for item in &items {
            self.push(*item)?;
        }
        self.set_items(items.len())
    }

    /// Puts the topmost `count` values, by twos, into the dictionary below them.
    fn set_items(&mut self, count: usize) -> Result<(), Fault> {
        let from = self.stack.len().checked_sub(count).filter(|&from| from > self.floor());
        let Some(from) = from.filter(|_| count.is_multiple_of(2)) else {
            return Err(self.invalid("pairs are missing"));
        };
        let target = self.stack[from - 1];
        match self.heap.get_mut(target) {
            Some(Node::Dict(pairs)) => {
                for pair in self.stack[from..].as_chunks::<2>().0 {
                    self.allowance.push(pairs, (pair[0], pair[1]))?;
                }
            }
            Some(Node::Object { parts, .. }) => {
                for &item in &self.stack[from..] {
                    self.allowance.push(parts, item)?;
                }
            }
            _ => return Err(self.invalid("pairs are put into what is no dictionary")),
        }
        self.stack.truncate(from);
        Ok(())
    }

    fn put(&mut self, number: u64) -> Result<(), Fault> {
        let top = self.top()?;
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        while self.memo.len() <= number {
            self.allowance.push(&mut self.memo, None)?;
        }
        self.memo[number] = Some(top);
        Ok(())
    }

    fn recall(&mut self, number: u64) -> Result<(), Fault> {
        let kept = usize::try_from(number).ok().and_then(|n| self.memo.get(n).copied().flatten());
        match kept {
            Some(value) => self.push(value),
            None => Err(self.invalid(format!("nothing was kept under the number {number}"))),
        }
    }

    /// Bytes up to the end of the line.
    fn line(&mut self) -> Result<Span, Fault> {
        let start = self.at as u32;
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        self.bytes(len + 1)?;
        Ok(Span { start, len: len as u32 })
    }

    fn global(&mut self) -> Result<(), Fault> {
        let (module, name) = (self.line()?, self.line()?);
        self.push_global(module, name)
    }

    fn stack_global(&mut self) -> Result<(), Fault> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Value::Text(name), Value::Text(module)) = (name, module) else {
            return Err(self.invalid("a name that is no string"));
        };
        self.push_global(module, name)
    }

    fn push_global(&mut self, module: Span, name: Span) -> Result<(), Fault> {
        if module.len.max(name.len) > MOST_NAME_BYTES {
            return Err(self.invalid(format!("a name of more than {MOST_NAME_BYTES} bytes")));
        }
        let text = |span: Span| std::str::from_utf8(span.of(self.text));
        let (Ok(in_module), Ok(called)) = (text(module), text(name)) else {
            return Err(self.invalid("a name that is not UTF-8"));
        };
        if globals::runs(in_module, called) {
            let asked = quoted(&format!("{in_module}.{called}"));
            let message = format!(
                "the pickle asks for {asked}, which runs programs or code where it is loaded; such a file is not read"
            );
            return Err(self.unsupported(message));
        }
        let asked = Asked { module, name, known: globals::find(in_module, called) };
        let number = self.heap.asked.len() as u32; // fewer than bytes of the pickle
        self.allowance.push(&mut self.heap.asked, asked)?;
        self.push(Value::Global(number))
    }

    fn call(&mut self) -> Result<(), Fault> {
        self.call_with(None)
    }

    /// A call, with what it is given by name.
    fn call_with(&mut self, named: Option<Value>) -> Result<(), Fault> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        if self.heap.list(arguments).is_none() {
            return Err(self.invalid("a call of what is no function"));
        }
        let (heap, allowance) = (&mut self.heap, &mut self.allowance);
        let value = call::call(heap, allowance, function, arguments, self.text, self.op_at as u32)?;
        if let (Some(named), Some(Node::Object { parts, .. })) = (named, self.heap.get_mut(value)) {
            self.allowance.push(parts, named)?;
        }
        self.push(value)
    }

    /// A call of the first thing above the mark with the others.
    fn call_marked(&mut self) -> Result<(), Fault> {
        let from = self.marked()?;
        if from >= self.stack.len() {
            return Err(self.invalid("the stack is empty"));
        }
        self.list_from(from + 1)?;
        self.call()
    }

    /// BUILD gives an object its attributes, and an empty tensor its numbers; the attributes of
    /// dictionaries (`_metadata`) and of other tensors are of no interest here.
    fn build(&mut self) -> Result<(), Fault> {
        let attributes = self.pop()?;
        let top = self.top()?;
        match self.heap.get_mut(top) {
            Some(Node::Unreadable(Why::Empty)) => {
                call::fill(&mut self.heap, &mut self.allowance, top, attributes, self.op_at as u32)
            }
            Some(Node::Dict(_) | Node::Tensor(_) | Node::Unreadable(_)) => Ok(()),
            Some(Node::Object { parts, .. }) => self.allowance.push(parts, attributes),
            Some(Node::Array(_) | Node::ArrayType(_)) => {
                let (heap, allowance) = (&mut self.heap, &mut self.allowance);
                arrays::build(heap, allowance, top, attributes, self.text, self.op_at as u32)
            }
            _ => Err(self.invalid("attributes are set on what has none")),
        }
    }

    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let node = call::persistent(&self.heap, id, self.text)?;
        match node {
            Persistent::Value(value) => self.push(value),
            Persistent::Storage(storage) => {
                self.allowance.take(size_of_val(&storage))?;
                self.push_node(Node::Storage(Box::new(storage)))
            }
            Persistent::Object(asked) => self.push_node(Node::Object { asked, parts: Vec::new() }),
        }
    }

    fn invalid(&self, message: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
        Fault::invalid(self.op_at, message)
    }

    fn unsupported(&self, message: String) -> Fault {
        Fault { kind: SourceErrorKind::Unsupported, ..self.invalid(message) }
    }
}
