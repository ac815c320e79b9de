//! Runs neural networks that do not fit in device memory.
//!
//! You set a [`Budget`] in bytes, and the run never exceeds it: weights that fit stay in memory, and the
//! others are loaded from disk shortly before their layer runs. The output is the same to the bit for every
//! budget.
//!
//! This crate re-exports the other vram crates. Each is a module here, and the root has the items that most
//! programs need.
//!
//! | module | contents |
//! |---|---|
//! | [`types`] | dtypes, shapes, sizes, the [`WeightSource`] trait, casts |
//! | [`diskmap`] | checkpoints opened by their headers, tensors read on demand |
//! | [`alloc`] | parameters without storage, [`skip_init`] |
//! | [`device`] | [`Device`], [`Kernels`], [`Budget`], the backends |
//! | [`layers`] | the engine and the layers that run on it |
//! | [`models`] | model architectures |
//!
//! # A model under a budget
//!
//! ```
//! use std::sync::Arc;
//! use vram_stream::models::controlnet::{Config, ControlNet, Inputs};
//! use vram_stream::{
//!     Budget, Cpu, DType, DiskMap, Kernels, ModuleMap, TensorMeta, Tier, VramConfig, WeightSource,
//!     enable_vram_management, skip_init,
//! };
//!
//! # fn checkpoint() -> Result<(tempfile::TempDir, std::path::PathBuf), Box<dyn std::error::Error>> {
//! #     let folder = tempfile::tempdir()?;
//! #     let path = folder.path().join("controlnet.safetensors");
//! #     let model = skip_init(|| ControlNet::new(&Config { blocks: 3, width: 32, inputs: 8, dtype: DType::F32 }))?;
//! #     struct Metas(Vec<(String, TensorMeta)>);
//! #     impl<'a> vram_stream::alloc::Visitor<'a> for Metas {
//! #         fn parameter(&mut self, path: &vram_stream::alloc::Path, p: &'a vram_stream::alloc::Parameter) {
//! #             self.0.push((path.to_string(), p.meta().clone()));
//! #         }
//! #     }
//! #     let mut metas = Metas(Vec::new());
//! #     vram_stream::alloc::walk(&model, &mut metas);
//! #     let mut writer = vram_stream::diskmap::SafetensorsWriter::create(&path, metas.0, &[])?;
//! #     writer.write(&vec![0; writer.remaining() as usize])?;
//! #     writer.finish()?;
//! #     Ok((folder, path))
//! # }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (_folder, path) = checkpoint()?;
//! // Reads the header; building the model takes no memory.
//! let source: Arc<dyn WeightSource> = Arc::new(DiskMap::open(&path)?);
//! let model = skip_init(|| ControlNet::new(&Config::read(&*source)?))?;
//!
//! // 16 KiB for weights, activations and scratch together; the weights alone are 28 KiB.
//! let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, 16 << 10));
//! let device: Arc<dyn Kernels> = Arc::new(Cpu::new(Default::default())?);
//! let model = enable_vram_management(model, source, device, &ModuleMap::standard(), config)?;
//!
//! let (img, conditioning) = (vec![0; 4 * 32 * 4], vec![0; 4 * 8 * 4]);
//! let inputs = Inputs {
//!     img: (&img, TensorMeta::new(DType::F32, [1, 4, 32])?),
//!     conditioning: (&conditioning, TensorMeta::new(DType::F32, [1, 4, 8])?),
//! };
//! let output = model.run(|model, forward| model.forward(forward, &inputs))?;
//! assert_eq!(output.len(), img.len());
//! assert!(model.report().peak_bytes <= 16 << 10);
//! # Ok(()) }
//! ```
//!
//! If a checkpoint fits, [`load_to_device`] loads all of it with one call.
//!
//! # Features
//!
//! The CPU backend is always included. `wgpu` adds every card that Vulkan, Metal or DX12 reaches, and `cuda`
//! adds NVIDIA's cards through their own driver; `device::open("wgpu")` and `device::open("cuda")` open
//! them. `io-uring` adds reads with io_uring on Linux.
#![forbid(unsafe_code)]

mod error;
mod load;

pub use vram_alloc as alloc;
pub use vram_device as device;
pub use vram_diskmap as diskmap;
pub use vram_layers as layers;
pub use vram_models as models;
pub use vram_types as types;

pub use error::Error;
pub use load::{DeviceMap, load_to_device};
pub use vram_alloc::{Init, Module, Parameter, module, skip_init};
pub use vram_device::{Budget, Device, Kernels, Lifetime, Tier, View, cpu::Cpu, cpu::CpuOptions};
pub use vram_diskmap::{DiskMap, DiskMapOptions, ReadMode};
pub use vram_layers::layers::{Embedding, LayerNorm, Linear, RmsNorm};
pub use vram_layers::{
    Event, Forward, Managed, ModuleMap, Observer, Report, RunOptions, Split, Tensor, Trace, Uncovered,
    VramConfig, enable_vram_management,
};
pub use vram_types::{ByteSize, DType, Shape, TensorMeta, WeightSource, WeightSourceExt};
