//! What a pickle makes: values, and the lists, dictionaries and tensors that they refer to, within
//! an allowance.

use vram_types::{DType, SourceErrorKind};

use crate::fault::Fault;

/// Bytes that may be used whatever the length of the pickle.
const FREE_BYTES: usize = 40 << 10;
/// Bytes that may be used for each byte of the pickle and of what lists its storages.
const BYTES_PER_BYTE: usize = 14;

/// Memory that a pickle may still take: what it makes is held to a multiple of its own length.
#[derive(Debug)]
pub(super) struct Allowance(usize);

impl Allowance {
    pub(super) fn new(metadata_bytes: usize) -> Allowance {
        Allowance(FREE_BYTES.saturating_add(metadata_bytes.saturating_mul(BYTES_PER_BYTE)))
    }

    /// Gives back what was held for a while.
    pub(super) fn give(&mut self, bytes: usize) {
        self.0 += bytes;
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Fault> {
        self.0 = self.0.checked_sub(bytes).ok_or_else(|| {
            let message = "the pickle makes far more than its own length accounts for";
            Fault::new(SourceErrorKind::Invalid, message)
        })?;
        Ok(())
    }

    /// Appends, growing by a quarter so that the most that is held at once stays in proportion.
    pub(super) fn push<T>(&mut self, to: &mut Vec<T>, value: T) -> Result<(), Fault> {
        if to.len() == to.capacity() {
            let before = to.capacity() * size_of::<T>();
            let capacity = to.len() + (to.len() / 4).max(2);
            self.take(capacity * size_of::<T>())?;
            to.reserve_exact(capacity - to.len());
            self.0 += before;
        }
        to.push(value);
        Ok(())
    }
}

/// A piece of the pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Span {
    pub(super) fn of(self, pickle: &[u8]) -> &[u8] {
        let start = self.start as usize;
        pickle.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// One value on the machine's stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number of more than 64 bits, little-endian.
    Long(Span),
    Float(f64),
    /// Checked to be UTF-8.
    Text(Span),
    Bytes(Span),
    /// Bytes that are spelt as text: the number of each character is a byte.
    Latin1(Span),
    /// A name that the pickle asked for, by its number in [`Heap::asked`].
    Global(u32),
    Node(u32),
}

/// A name that the pickle asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) module: Span,
    pub(super) name: Span,
    /// `None` for a name that means nothing here: whatever is made with it stays unread.
    pub(super) known: Option<Global>,
}

impl Asked {
    pub(super) fn path(self, pickle: &[u8]) -> String {
        let text = |span: Span| String::from_utf8_lossy(span.of(pickle)).into_owned();
        format!("{}.{}", text(self.module), text(self.name))
    }
}

/// What a known name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    Dict,
    /// Its first argument makes the values that are missing.
    DefaultDict,
    Counter,
    /// Also a list or a tuple.
    Set,
    Size,
    Encode,
    Numpy(Numpy),
    Rebuild(Rebuild),
    Storage(Element),
    DType(Option<DType>),
    /// `torch.Tensor`, `torch.nn.Parameter` or an older type of tensors as a type.
    TensorType,
}

/// The words of pickled arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numpy {
    /// `numpy.ndarray` as a type.
    Array,
    DType,
    /// An empty array, which BUILD fills.
    Reconstruct,
    FromBuffer,
    Scalar,
}

/// The functions that give back a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rebuild {
    V1,
    V2,
    V3,
    Parameter,
    FromType,
    /// A tensor or an array, whose numbers went to a device when it was loaded.
    Device,
    /// A kind of tensor that has no plain bytes; the words say which.
    Other(&'static str),
}

/// Something that values refer to, so that it can be shared and filled later.
#[derive(Debug)]
pub(super) enum Node {
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
    /// A tensor that cannot be read, and why.
    Unreadable(Why),
    /// Something made with an unknown name: the number of that name, and what it was given.
    Object {
        asked: u32,
        parts: Vec<Value>,
    },
    /// `None` until BUILD.
    Array(Option<Box<Array>>),
    ArrayType(ArrayType),
}

/// Why a tensor cannot be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    Is(&'static str),
    /// It depends on the name of this number, which is unknown.
    Needs(u32),
    /// It is made without numbers, which BUILD may give it.
    Empty,
}

/// The element type of an array.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArrayType {
    /// `None` for what is no number that we have.
    pub(super) dtype: Option<DType>,
    /// A number, ours or not; otherwise text, objects, or several fields.
    pub(super) is_number: bool,
    pub(super) swapped: bool,
}

/// An array whose bytes are in the pickle.
#[derive(Debug)]
pub(super) struct Array {
    pub(super) dtype: DType,
    pub(super) swapped: bool,
    /// The first extent is the innermost one.
    pub(super) fortran: bool,
    pub(super) shape: Vec<usize>,
    /// Text, bytes, or bytes spelt as text.
    pub(super) data: Value,
    /// Where the pickle makes it.
    pub(super) at: u32,
}

/// Where a tensor's numbers are, as the pickle names it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage {
    pub(super) element: Element,
    pub(super) key: Span,
    /// Elements, or bytes where it is untyped.
    pub(super) count: u64,
    /// The element of the file's storage at which this one begins (old files).
    pub(super) view_offset: u64,
    /// It was on PyTorch's device `meta`: the file has room for the numbers and no numbers.
    pub(super) is_meta: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Typed(DType),
    /// Bytes; the tensor states a dtype of its own.
    Untyped,
    /// Of a type that we have not, of so many bytes.
    Unknown(u8),
}

impl Element {
    /// Bytes of one.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Element::Typed(dtype) => u64::from(dtype.bits() / 8),
            Element::Untyped => 1,
            Element::Unknown(bytes) => u64::from(bytes),
        }
    }
}

/// A tensor as the pickle states it, its numbers checked for sign only.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    pub(super) dtype: DType,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<u64>,
    /// Where the pickle makes it.
    pub(super) at: u32,
}

/// All nodes of one pickle.
#[derive(Debug, Default)]
pub(super) struct Heap {
    pub(super) nodes: Vec<Node>,
    /// Every name that was asked for.
    pub(super) asked: Vec<Asked>,
}

impl Heap {
    pub(super) fn add(&mut self, node: Node, allowance: &mut Allowance) -> Result<Value, Fault> {
        let number = self.nodes.len() as u32; // fewer than bytes of the pickle
        allowance.push(&mut self.nodes, node)?;
        Ok(Value::Node(number))
    }

    pub(super) fn get(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(number) => self.nodes.get(number as usize),
            _ => None,
        }
    }

    /// What a known name stands for.
    pub(super) fn global(&self, value: Value) -> Option<Global> {
        match value {
            Value::Global(number) => self.asked.get(number as usize)?.known,
            _ => None,
        }
    }

    /// The unknown name that a value is, or was made with.
    pub(super) fn foreign(&self, value: Value) -> Option<u32> {
        match value {
            Value::Global(number) if self.global(value).is_none() => Some(number),
            _ => match self.get(value)? {
                Node::Object { asked, .. } => Some(*asked),
                _ => None,
            },
        }
    }

    /// The path of the name of that number.
    pub(super) fn path(&self, asked: u32, pickle: &[u8]) -> String {
        self.asked.get(asked as usize).map_or_else(String::new, |asked| asked.path(pickle))
    }

    pub(super) fn get_mut(&mut self, value: Value) -> Option<&mut Node> {
        match value {
            Value::Node(number) => self.nodes.get_mut(number as usize),
            _ => None,
        }
    }

    pub(super) fn list(&self, value: Value) -> Option<&[Value]> {
        match self.get(value)? {
            Node::List(items) => Some(items),
            _ => None,
        }
    }
}

/// A pickle that is wrong.
pub(super) fn invalid(message: &'static str) -> Fault {
    Fault::new(SourceErrorKind::Invalid, message)
}

/// A number that cannot be negative.
pub(super) fn whole(value: Value) -> Result<u64, Fault> {
    match value {
        Value::Int(n) => u64::try_from(n).map_err(|_| invalid("a negative offset, extent or stride")),
        _ => Err(invalid("an offset, extent or stride that is no whole number of 64 bits")),
    }
}

/// One extent of a shape.
pub(super) fn extent(value: Value) -> Result<usize, Fault> {
    usize::try_from(whole(value)?).map_err(|_| invalid("an extent that does not fit"))
}
