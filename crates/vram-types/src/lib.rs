//! The words that the vram crates share: [`DType`], [`Shape`], [`TensorMeta`], [`ByteSize`], the
//! [`WeightSource`] trait behind which every checkpoint and remote store stands, and [casts](mod@cast)
//! between dtypes that round as PyTorch's `.to(dtype)` does.
//!
//! No I/O and no device code lives here: bytes are read by a [`WeightSource`], and moved by the crates above.
//!
//! ```
//! use vram_types::{ByteSize, DType, TensorMeta};
//!
//! let meta = TensorMeta::new(DType::BF16, [3072, 3072])?;
//! assert_eq!(meta.bytes(), 3072 * 3072 * 2);
//! assert_eq!(ByteSize(meta.bytes()).to_string(), "18.0 MiB");
//! assert_eq!("512MiB".parse::<ByteSize>()?, ByteSize::mib(512));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod cast;
mod dtype;
pub mod encoding;
mod error;
mod meta;
mod shape;
mod size;
pub mod source;

pub use dtype::{DType, ElementLayout, UnknownDType};
pub use encoding::{BlockType, Encoding};
pub use error::{SourceError, SourceErrorKind, TypeError};
pub use meta::TensorMeta;
pub use shape::Shape;
pub use size::{ByteSize, ParseByteSizeError};
pub use source::{
    CancelToken, Encoded, FileId, FileRange, GeneratedSource, HostBytes, Joined, Located, Overlay, Priority,
    ReadOptions, ReadRequest, ReadTarget, StorageId, WeightSource, WeightSourceExt,
};
