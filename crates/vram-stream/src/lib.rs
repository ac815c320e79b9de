//! Neural networks that are larger than the memory of the device that must run them.
//!
//! The weights wait on disk, a layer's weights are in memory only while they are needed, and a [`Budget`] in bytes is
//! never passed. The answer is the same to the bit, whatever the budget is.
//!
//! This crate is the others behind one dependency: each is a module here, and what most programs need is at the root.
//!
//! | module | what |
//! |---|---|
//! | [`types`] | dtypes, shapes, sizes, the [`WeightSource`] trait, casts |
//! | [`diskmap`] | checkpoints opened by their headers, tensors read on demand |
//! | [`alloc`] | parameters without storage, [`skip_init`] |
//! | [`device`] | [`Device`], [`Kernels`], [`Budget`], the CPU backend |
//! | [`layers`] | the engine and the layers that run on it |
//! | [`models`] | whole architectures |
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
//! // 16 KiB for weights, activations and scratch together, where the weights alone are 28 KiB.
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
//! A checkpoint that fits is on the device with one call, [`load_to_device`].
//!
//! # Features
//!
//! The CPU is always there. With `wgpu`, so is every card that Vulkan, Metal or DX12 reaches: `device::open("wgpu")`. The
//! backend for `cuda` will be a feature of that name.
#![forbid(unsafe_code)]

mod load;

pub use vram_alloc as alloc;
pub use vram_device as device;
pub use vram_diskmap as diskmap;
pub use vram_layers as layers;
pub use vram_models as models;
pub use vram_types as types;

pub use load::{DeviceMap, Error, load_to_device};
pub use vram_alloc::skip_init;
pub use vram_device::{Budget, Device, Kernels, Lifetime, Tier, View, cpu::Cpu, cpu::CpuOptions};
pub use vram_diskmap::{DiskMap, DiskMapOptions, ReadMode};
pub use vram_layers::{
    Forward, Managed, ModuleMap, Report, RunOptions, Split, Tensor, VramConfig, enable_vram_management,
};
pub use vram_types::{ByteSize, DType, Shape, TensorMeta, WeightSource, WeightSourceExt};
