//! The formats: from the beginning of a file to what it says of its tensors. `detect` tells them
//! apart; each reads through [`Storage`](crate::Storage) and knows no file.

pub(crate) mod detect;
pub(crate) mod gguf;
pub(crate) mod json;
pub(crate) mod others;
pub(crate) mod reading;
pub(crate) mod safetensors;
pub(crate) mod torch;
pub(crate) mod zip;

pub(crate) use reading::Reading;
