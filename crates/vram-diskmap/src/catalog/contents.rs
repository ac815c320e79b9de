//! What one file of a checkpoint holds, whatever its format.

use std::borrow::Cow;

use vram_types::FileId;

use crate::catalog::names::NameRef;
use crate::catalog::tensor::TensorInfo;
use crate::read::strides::Strides;

/// A tensor that is there and that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) name: NameRef,
    pub(crate) file: FileId,
    pub(crate) why: Cow<'static, str>,
}

/// A file's place in a set of files that state theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Counted from 0.
    pub(crate) number: u64,
    pub(crate) of: u64,
    /// Tensors of the whole set, if the file says.
    pub(crate) tensors: Option<u64>,
}

/// Something beside the tensors that was left unread.
#[derive(Debug)]
pub(crate) struct Unread {
    /// Where in the file's dictionaries it is.
    pub(crate) name: Box<str>,
    /// What it is, in a few words.
    pub(crate) what: Box<str>,
}

/// The tensors of one file, and what else it says.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// In any order.
    pub(crate) tensors: Vec<TensorInfo>,
    /// Strides that tensors refer to by number.
    pub(crate) strides: Vec<Strides>,
    pub(crate) unreadable: Vec<Unreadable>,
    pub(crate) unread: Vec<Unread>,
    /// Bytes of tensors that are spelt otherwise in the file. Such a tensor is of the file with
    /// the next number.
    pub(crate) decoded: Vec<u8>,
    /// A JSON object of strings, or empty.
    pub(crate) metadata: Box<str>,
    /// What was wrong and was let pass.
    pub(crate) lenient: Vec<String>,
    /// The file's place in a set, if it states one.
    pub(crate) split: Option<Split>,
    /// Bytes asked of the file to know this.
    pub(crate) bytes_read: u64,
}
