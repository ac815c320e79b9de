//! One tensor out of a huge checkpoint, now, with no copy of the file and no memory spike.
//!
//! A [`DiskMap`] opens files of several [formats](#formats) (one, several, a folder, or a sharded
//! checkpoint by its `*.index.json`), reads their headers and nothing else, and then reads
//! tensors, slices of tensors, or ranges of bytes on demand, from any number of threads. It is a
//! [`WeightSource`].
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
//! - **PyTorch**: the zip archives of `torch.save` and the pickles that it wrote before. Pickles
//!   are read by a machine that makes lists, dictionaries and descriptions of tensors. Nothing is
//!   ever imported or run: whatever is made with a name that the machine does not know stays an
//!   object that nothing is known of, and [`DiskMap::unread`] lists it. A tensor that depends on
//!   such an object is [unreadable](DiskMap::unreadable); no other is lost. NumPy arrays of plain
//!   dtypes are tensors. Storages are read in place, transposed, sliced, expanded and tied tensors
//!   included. Nested dictionaries are flattened with dots, and keys that are no text become the
//!   text that Python's `str` makes of them; a lone `state_dict`, `module` or `model_state` around
//!   everything is dropped.
//!
//!   A pickle is refused altogether if it asks for a name that runs programs or code where it is
//!   loaded (`os.system`, `builtins.eval` and the like), if it is nothing but one unknown object (a
//!   module that was saved whole), if two tensors have the same flattened name, and if its tensors
//!   do not fit their storages.
//! - **GGUF** 2 and 3, little-endian: numbers of any width, and the quantised
//!   [`BlockType`](vram_types::BlockType)s, decoded into `F32` or
//!   [raw](DiskMapOptions::raw_blocks).
//!
//! A tensor that a file has and that cannot be read (a sparse one, a quantised type without a
//! decoder) spoils no other: [`DiskMap::unreadable`] lists it, and reading it is an error that
//! says why.
//!
//! # Where the bytes are
//!
//! In files of this machine, or in a [`Storage`]: bytes in memory, an object of a remote store.
//! Formats know the trait alone, so that each works over every implementation;
//! [`DiskMap::open_storage`] opens one.
//!
//! # Memory and the page cache
//!
//! Nothing is allocated in proportion to a number that a file merely claims. By default
//! ([`ReadMode::Auto`]) long reads of what the page cache does not hold go past it, straight into
//! the caller's memory where address and file offset are congruent; a checkpoint larger than
//! memory is read without pushing anything out. A memory map is an `unsafe` choice
//! ([`DiskMap::open_mapped`]), since nobody can check that a file stays as it is.
//!
//! # Stricter than the format's own crate
//!
//! Whatever the `safetensors` crate refuses is refused, and so are: a name that occurs twice (in a
//! file, across shards, or in `__metadata__`), blanks before the header's `{`, anything but spaces
//! after its `}`, unknown fields of a tensor, a tensor written as an array, a dtype that is no
//! string, and a `__metadata__` that is null.
#![deny(unsafe_op_in_unsafe_fn)]

mod catalog;
mod conversion;
mod fault;
mod format;
mod io;
mod read;
mod write;

pub use catalog::inspect::{DTypeTotal, InspectedTensor, Inspection, inspect};
pub use catalog::map::DiskMap;
pub use catalog::open::DiskMapOptions;
pub use catalog::tensor::TensorInfo;
pub use conversion::{Conversion, ConversionError, ConversionErrorKind, Converted, Names, Rule};
pub use io::{FileReading, MemoryStorage, ReadAt, ReadMode, ReadPath, ReadQueue, Storage, StorageRead};
pub use read::host::HostTensor;
pub use write::extract::{Extract, ExtractProgress, Extracted, extract};
pub use write::fill::{Fill, NewFile, NewTensor, write_files};
pub use write::partial::{Abandoned, abandon_unfinished, check_writable, write_file};
pub use write::safetensors::{SafetensorsWriter, safetensors_header};
// What tensors are described by, so that reading a checkpoint needs this crate alone.
pub use vram_types::{DType, Shape, SourceError, TensorMeta, WeightSource, WeightSourceExt};
