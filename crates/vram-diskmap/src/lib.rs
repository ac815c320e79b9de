//! One tensor out of a huge checkpoint, now, with no copy of the file and no memory spike.
//!
//! A [`DiskMap`] opens files of several [formats](#formats) (one, several, a folder, or a sharded checkpoint by its
//! `*.index.json`), reads their headers and nothing else, and then reads tensors, slices of tensors, or ranges of bytes on demand, from any
//! number of threads. It is a [`WeightSource`](vram_types::WeightSource).
//!
//! ```
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("model.safetensors");
//! # let meta = vram_types::TensorMeta::new(vram_types::DType::F32, [4, 2])?;
//! # let mut writer = vram_diskmap::SafetensorsWriter::create(&path, [("fc.weight", meta)], &[])?;
//! # writer.write(&[1; 32])?;
//! # writer.finish()?;
//! use vram_diskmap::DiskMap;
//!
//! let map = DiskMap::open(&path)?;
//! for (name, tensor) in map.iter() {
//!     println!("{name}: {} {}", tensor.dtype(), tensor.shape());
//! }
//! let weight = map.get("fc.weight")?;
//! assert_eq!(weight.bytes().len(), 32);
//! let second_row = map.get_slice("fc.weight", &[1..2])?;
//! assert_eq!(second_row.bytes(), &weight.bytes()[8..16]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Formats
//!
//! Told apart by how a file begins, never by its name:
//!
//! - **safetensors**, stricter than its own crate (see below).
//! - **PyTorch**: the zip archives of `torch.save` and the pickles that it wrote before. Pickles are read by a machine that
//!   makes lists, dictionaries and descriptions of tensors; a file that asks for any name beyond those is refused by that
//!   name, and nothing is ever run. Storages are read in place, transposed, sliced, expanded and tied tensors included.
//!   Nested dictionaries are flattened with dots; a lone `state_dict`, `module` or `model_state` around everything is dropped.
//! - **GGUF** 2 and 3, little-endian: numbers of any width, and the quantised [`BlockType`]s, decoded into `F32` or
//!   [raw](DiskMapOptions::raw_blocks).
//!
//! A tensor that a file has and that cannot be read (a sparse one, a quantised type without a decoder) spoils no other:
//! [`DiskMap::unreadable`] lists it, and reading it is an error that says why.
//!
//! # Memory and the page cache
//!
//! Nothing is allocated in proportion to a number that a file merely claims. By default ([`ReadMode::Auto`]) long reads
//! of what the page cache does not hold go past it, straight into the caller's memory where address and file offset are
//! congruent; a checkpoint larger than memory is read without pushing anything out. A memory map is an `unsafe` choice
//! ([`DiskMap::open_mapped`]), since nobody can check that a file stays as it is.
//!
//! # Stricter than the format's own crate
//!
//! Whatever the `safetensors` crate refuses is refused, and so are: a name that occurs twice (in a file, across shards,
//! or in `__metadata__`), blanks before the header's `{`, anything but spaces after its `}`, unknown fields of a tensor,
//! a tensor written as an array, a dtype that is no string, and a `__metadata__` that is null.
#![deny(unsafe_op_in_unsafe_fn)]

mod blocks;
mod checksums;
mod compact;
mod computed;
mod contents;
mod conversion;
mod convert;
mod diskmap;
mod extract;
mod fault;
mod fill;
mod folder;
mod format;
mod gguf;
mod header;
mod index;
mod inspect;
mod io;
mod json;
mod names;
mod open;
mod placed;
mod read;
mod read_many;
mod safetensors;
mod slice;
mod source;
mod strides;
mod torch;
mod write;
mod zip;

pub use blocks::BlockType;
pub use conversion::{Conversion, ConversionError, ConversionErrorKind, Converted, Names, Rule};
pub use diskmap::{DiskMap, TensorInfo};
pub use extract::{Extract, ExtractProgress, Extracted, extract};
pub use fill::{Fill, NewFile, NewTensor, write_files};
pub use inspect::{DTypeTotal, InspectedTensor, Inspection, inspect};
pub use io::{FileReading, ReadAt, ReadMode, ReadPath, ReadQueue};
pub use open::DiskMapOptions;
pub use read::HostTensor;
pub use write::SafetensorsWriter;
