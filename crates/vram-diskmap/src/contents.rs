//! What one file of a checkpoint holds, whatever its format.

use std::borrow::Cow;
use std::num::NonZeroU32;

use vram_types::{FileId, SourceErrorKind};

use crate::diskmap::TensorInfo;
use crate::fault::Fault;
use crate::names::{NameRef, count};
use crate::strides::Strides;

/// A tensor that is there and that cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) name: NameRef,
    pub(crate) file: FileId,
    pub(crate) why: Cow<'static, str>,
}

/// The tensors of one file, and what else it says.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// In any order.
    pub(crate) tensors: Vec<TensorInfo>,
    /// Strides that tensors refer to by number.
    pub(crate) strides: Vec<Strides>,
    pub(crate) unreadable: Vec<Unreadable>,
    /// A JSON object of strings, or empty.
    pub(crate) metadata: Box<str>,
    /// What was wrong and was let pass.
    pub(crate) lenient: Vec<String>,
    /// Bytes asked of the file to know this.
    pub(crate) bytes_read: u64,
}

/// The number of a tensor's strides, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StridesRef(NonZeroU32);

impl StridesRef {
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// The last of so many.
    pub(crate) fn last(of: usize) -> Result<StridesRef, Fault> {
        let none = || Fault::new(SourceErrorKind::Invalid, "no strides");
        NonZeroU32::new(count(of)?).map(StridesRef).ok_or_else(none)
    }

    /// The number among strides of which `before` come first.
    pub(crate) fn after(self, before: usize) -> Result<StridesRef, Fault> {
        let number = count(self.0.get() as usize + before)?;
        Ok(StridesRef(NonZeroU32::new(number).unwrap_or(self.0)))
    }
}
