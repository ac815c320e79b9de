//! Builds models without allocating their weights. A parameter is *meta* until it is loaded: it
//! has a dtype and a shape, but no storage. So you can build a model that is larger than memory,
//! count its parameters, and check it against a checkpoint.
//!
//! - [`Parameter`], [`skip_init`] and [`InitPolicy`]: parameters, and whether they are allocated.
//! - [`Module`] and [`module!`]: a tree of parameters, with the names that PyTorch gives them.
//! - [`load()`] and [`check`]: load parameters from a [`WeightSource`](vram_types::WeightSource),
//!   or get the same report without reading.
//! - [`counts`]: the number of parameters and bytes, by dtype and by module.
//! - [`pack`](mod@pack): where the tensors of a unit lie in one slot, and which file reads fill
//!   it.
//!
//! This crate does no I/O of its own and touches no device.
//!
//! ```
//! use vram_alloc::{AllocError, Init, Parameter, counts, module, parameter_names, skip_init};
//! use vram_types::{DType, TensorMeta};
//!
//! struct Linear { weight: Parameter, bias: Option<Parameter> }
//! module! { Linear { weight, bias } }
//!
//! struct Net { layers: Vec<Linear> }
//! module! { Net { layers as "blocks" } }
//!
//! fn linear(input: usize, output: usize) -> Result<Linear, AllocError> {
//!     let init = Init::linear(input);
//!     Ok(Linear {
//!         weight: Parameter::new(TensorMeta::new(DType::BF16, [output, input])?, init)?,
//!         bias: Some(Parameter::new(TensorMeta::new(DType::BF16, [output])?, init)?),
//!     })
//! }
//!
//! // 36 GiB of weights, none of them allocated.
//! let net = skip_init(|| -> Result<Net, AllocError> {
//!     Ok(Net { layers: (0..72).map(|_| linear(16384, 16384)).collect::<Result<_, _>>()? })
//! })?;
//! assert!(net.layers[0].weight.is_meta());
//! assert_eq!(parameter_names(&net)[1], "blocks.0.bias");
//! assert_eq!(counts(&net).weights.elements, 72 * (16384 * 16384 + 16384));
//! # Ok::<(), AllocError>(())
//! ```
#![forbid(unsafe_code)]

mod counts;
mod error;
mod host;
mod init;
mod load;
mod module;
pub mod pack;
mod parameter;
mod report;

pub use counts::{Count, Counts, CountsTable, ModuleCount, counts};
pub use error::AllocError;
pub use host::{AlignedBytes, ParamStorage};
pub use init::{Init, InitPolicy, skip_init, with_init};
pub use load::{DTypePolicy, LoadOptions, check, load};
pub use module::{
    Field, Module, Path, Visitor, VisitorMut, named_parameters, parameter_names, walk, walk_mut,
};
pub use parameter::{BufferKind, ParamId, Parameter, Role};
pub use report::{LoadReport, Mismatch};
