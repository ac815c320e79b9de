//! Neural networks larger than the memory of the device that runs them. Weights come when they are needed and
//! stay where there is room, under a hard byte budget that never changes the answer.
//!
//! There are two ways in.
//!
//! - A model written with [`layers`] and [`Forward`], put under management by [`enable_vram_management`]. A
//!   [`ModuleMap`] says what moves together, a [`VramConfig`] where weights are in each of the four [states](state).
//! - Your own compute loop over an [`Engine`]: name the layers in [`LayerSpec`]s, [`begin`](Engine::begin) a
//!   [`Pass`], and take a [`Lease`] for each layer. The example `own_kernels` needs nothing else from this
//!   crate.
//!
//! Either way a pass is admitted only after its [`Plan`] proves that it fits; otherwise
//! [`Error::BudgetTooSmall`] says what budget would do. The units that stay on the device are spread through
//! the depth of the model. The others pass through a ring, which reader threads fill ahead of the computing
//! layer and across the end of one pass into the next. A layer that is larger than the ring comes in tiles of
//! its rows. Of a table that is not resident, only the rows that are asked for are read.
//!
//! ```
//! # mod memory {
//! #     use std::borrow::Cow;
//! #     use vram_types::*;
//! #     /// Every tensor is 64 by 64, of one value.
//! #     pub struct Memory;
//! #     impl WeightSource for Memory {
//! #         fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
//! #             Box::new(["layers.0.weight", "layers.1.weight", "layers.2.weight"].into_iter())
//! #         }
//! #         fn locate(&self, name: &str) -> Option<Located> {
//! #             let offset = self.names().position(|n| n == name)? as u64;
//! #             let meta = TensorMeta::new(DType::F32, [64, 64]).ok()?;
//! #             Some(Located::new(meta, StorageId { file: FileId(0), offset }, []))
//! #         }
//! #         fn describe(&self, _: FileId) -> Option<Cow<'_, str>> { None }
//! #         fn read_many(&self, all: &mut [ReadRequest<'_>], _: &ReadOptions) -> Result<(), SourceError> {
//! #             for request in all {
//! #                 for word in request.wanted()?.chunks_exact_mut(4) {
//! #                     word.copy_from_slice(&0.25f32.to_le_bytes());
//! #                 }
//! #             }
//! #             Ok(())
//! #         }
//! #         fn bytes_read(&self) -> u64 { 0 }
//! #     }
//! # }
//! use std::sync::Arc;
//! use vram_alloc::{AllocError, module, skip_init};
//! use vram_device::{Budget, Tier, cpu::Cpu};
//! use vram_layers::{Error, Forward, ModuleMap, VramConfig, enable_vram_management, layers::Linear};
//! use vram_types::{DType, TensorMeta};
//!
//! struct Net { layers: Vec<Linear> }
//! module! { Net { layers } }
//!
//! impl Net {
//!     fn forward(&self, fwd: &mut Forward<'_>, input: &[u8]) -> Result<Vec<u8>, Error> {
//!         let mut x = fwd.input(input, &TensorMeta::new(DType::F32, [1, 64])?)?;
//!         for layer in &self.layers {
//!             x = layer.forward(fwd, &x)?;
//!         }
//!         fwd.download(&x)
//!     }
//! }
//!
//! let input: Vec<u8> = (0..64).flat_map(|i| (i as f32).to_le_bytes()).collect();
//! let mut outputs = Vec::new();
//! // All three layers of 16 KiB at once; one at a time; 16 rows at a time.
//! for budget in [64 << 10, 24 << 10, 9 << 10] {
//!     // No weight is allocated here.
//!     let build = || (0..3).map(|_| Linear::new(64, 64, false, DType::F32)).collect::<Result<_, AllocError>>();
//!     let net = Net { layers: skip_init(build)? };
//!     let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, budget));
//!     // In a real program, a `DiskMap` over checkpoints.
//!     let source = Arc::new(memory::Memory);
//!     let cpu = Arc::new(Cpu::new(Default::default())?);
//!     let net = enable_vram_management(net, source, cpu, &ModuleMap::standard(), config)?;
//!     outputs.push(net.run(|net, fwd| net.forward(fwd, &input))?);
//!     assert!(net.report().peak_bytes <= budget);
//! }
//! assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod engine;
mod error;
pub mod layers;
mod model;
mod observe;
mod plan;
mod spec;
pub mod state;
mod sync;

pub use engine::{Engine, EngineOptions, Lease, Pass, PassRequest, Session, Setting, VramLimit};
#[cfg(feature = "mutations")]
pub use engine::{Guard, leave_out};
pub use error::{Error, Incompatible, WrongShape};
pub use model::config::VramConfig;
pub use model::converted::StorageDtypes;
pub use model::forward::Forward;
pub use model::managed::{Managed, Prepared, RunOptions, enable_vram_management};
pub use model::map::{ModuleMap, Uncovered};
pub use model::pipeline::{Pipeline, Switch};
pub use model::tensor::Tensor;
pub use model::tile::Tile;
pub use observe::event::{Event, EvictionReason, Observer, Span, StallCause};
pub use observe::report::{DecodedOnHost, Eviction, PassReport, Report, Stall, Totals};
pub use observe::trace::Trace;
pub use plan::check::{Violation, check};
pub use plan::compose::{Plan, PlannedUnit};
pub use plan::costs::{Costs, LayerWork, Link};
pub use plan::partition::{TILE_ROWS, UnitId};
pub use plan::profile::{DeviceMemory, Flops, HostMemory, Profile, ProfileTopology};
pub use plan::schedule;
pub use spec::{Layer, LayerId, LayerSpec, Split};
