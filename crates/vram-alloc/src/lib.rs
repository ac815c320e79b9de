//! Parameters that are *meta* until they are loaded, so that a model larger than memory can be built, counted and
//! checked against its checkpoint in no time and no memory.
//!
//! - [`Parameter`], [`skip_init`] and [`InitPolicy`]: a parameter has a dtype and a shape, and storage only if it was
//!   asked for.
//! - [`Module`] and [`module!`]: a tree of parameters with the names that PyTorch gives them.
//! - [`load()`] and [`check`]: bytes of a [`WeightSource`](vram_types::WeightSource) into the parameters, or the same
//!   report without reading one.
//! - [`counts`]: how many parameters and bytes, by dtype and by module.
//! - [`pack`](mod@pack): where the tensors of a unit lie in one slot, and which file reads fill it.
//!
//! Nothing here does I/O of its own or touches a device.
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
//! // 36 GiB of weights, of which none is allocated.
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
pub use host::{AlignedBytes, HostTensor};
pub use init::{Init, InitPolicy, skip_init, with_init};
pub use load::{DTypePolicy, LoadOptions, check, load};
pub use module::{
    Field, Module, Path, Visitor, VisitorMut, named_parameters, parameter_names, walk, walk_mut,
};
pub use parameter::{BufferKind, ParamId, Parameter, Role};
pub use report::{LoadReport, Mismatch};
