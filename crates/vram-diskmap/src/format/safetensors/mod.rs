//! Safetensors: the length of a header, the header, then the tensors' bytes.

mod compact;
mod file;
pub(crate) mod header;

pub(crate) use file::read;
