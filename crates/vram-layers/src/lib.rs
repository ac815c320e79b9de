//! vram-layers
mod engine;
mod error;
mod forward;
pub mod layers;
mod managed;
mod partition;
mod plan;
mod report;
mod spec;
pub mod state;

pub use engine::{Engine, EngineOptions, Lease, Pass, PassRequest};
pub use error::Error;
pub use forward::{Forward, Tensor};
pub use managed::{Managed, ModuleMap, RunOptions, Uncovered, VramConfig, enable_vram_management};
pub use partition::{TILE_ROWS, Unit};
pub use plan::Plan;
pub use report::{PassReport, Report};
pub use spec::{Layer, LayerId, LayerSpec, Split};

/// Names a unit of a [`Plan`]: its place in the order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub usize);
