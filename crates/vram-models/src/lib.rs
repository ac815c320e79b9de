//! The architectures that come with vram, built on [`vram_layers`]. Hyperparameters are read from the
//! checkpoint's shapes, and from `config.json` if shapes do not show them.
//!
//! - [`controlnet`]: the Qwen-Image blockwise ControlNet.
//! - [`bert`]: BERT encoders, with the mean pooling of sentence embeddings.
//! - [`llama`]: decoders of the Llama family; [`sampling`] chooses their tokens.
//!
//! A model is built without weights and put under management, which finds them in a checkpoint:
//!
//! ```no_run
//! use std::sync::Arc;
//! use vram_device::{Budget, Tier, cpu::Cpu};
//! use vram_layers::{ModuleMap, VramConfig, enable_vram_management};
//! use vram_models::controlnet::{Config, ControlNet};
//! use vram_types::{DType, WeightSource};
//!
//! # fn run(source: Arc<dyn WeightSource>) -> Result<(), Box<dyn std::error::Error>> {
//! let model = vram_alloc::skip_init(|| ControlNet::new(&Config::read(&*source)?))?;
//! let device = Arc::new(Cpu::new(Default::default())?);
//! let config = VramConfig::disk(DType::BF16, Budget::new(Tier::Device, 128 << 20));
//! let managed = enable_vram_management(model, source, device, &ModuleMap::standard(), config)?;
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

pub mod bert;
pub mod controlnet;
mod error;
pub mod llama;
pub mod sampling;

pub use error::ModelError;
