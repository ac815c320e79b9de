//! GGUF, versions 2 and 3: key-value pairs, a list of tensors, then their bytes.

mod list;
mod values;

pub(crate) use list::read;
