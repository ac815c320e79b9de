//! One tensor out of a huge checkpoint, now, with no copy of the file and no memory spike.
//!
//! A [`DiskMap`] opens safetensors files (one, several, a folder, or a sharded checkpoint by its `*.index.json`), reads their
//! headers and nothing else, and then reads tensors, slices of tensors, or ranges of bytes on demand, from any
//! number of threads. It is a [`WeightSource`](vram_types::WeightSource).
#![deny(unsafe_op_in_unsafe_fn)]

mod convert;
mod diskmap;
mod fault;
mod header;
mod index;
mod io;
mod json;
mod names;
mod open;
mod read;
mod slice;
mod source;

pub use diskmap::{DiskMap, TensorInfo};
pub use io::ReadMode;
pub use open::DiskMapOptions;
pub use read::HostTensor;
