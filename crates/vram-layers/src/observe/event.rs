//! Events of an engine, reported as they happen.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

/// Receives the events of an engine. Called often, and concurrently, from the computing thread and the
/// readers; a pass waits for every call to return.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use vram_layers::{Event, ModuleMap, Observer, VramConfig, enable_vram_management};
/// # use std::sync::Arc;
/// # use vram_alloc::{module, skip_init};
/// # use vram_device::{Budget, Tier, cpu::Cpu};
/// # use vram_layers::layers::Linear;
/// # use vram_types::{DType, GeneratedSource, TensorMeta};
/// # struct Block { linear: Linear }
/// # module! { Block { linear } }
/// # struct Net { blocks: Vec<Block> }
/// # module! { Net { blocks } }
/// # impl Net {
/// #     fn forward(&self, fwd: &mut vram_layers::Forward<'_>, input: &[u8]) -> Result<Vec<u8>, vram_layers::Error> {
/// #         let mut x = fwd.input(input, &TensorMeta::new(DType::F32, [1, 32])?)?;
/// #         for block in &self.blocks { x = block.linear.forward(fwd, &x)?; }
/// #         fwd.download(&x)
/// #     }
/// # }
/// # let metas = (0..4).map(|i| (format!("blocks.{i}.linear.weight"), TensorMeta::new(DType::F32, [32, 32]).unwrap()));
/// # let source = Arc::new(GeneratedSource::new(metas, |_, _, bytes| bytes.fill(0)).unwrap());
/// # let block = || Block { linear: Linear::new(32, 32, false, DType::F32).unwrap() };
/// # let net = skip_init(|| Net { blocks: (0..4).map(|_| block()).collect() });
/// # let cpu = Arc::new(Cpu::new(Default::default()).unwrap());
/// # let input = [0; 128];
///
/// /// Counts the bytes that come from the source.
/// #[derive(Debug, Default)]
/// struct Bytes(AtomicU64);
///
/// impl Observer for Bytes {
///     fn event(&self, event: &Event<'_>) {
///         if let Event::Read { bytes, .. } = event {
///             self.0.fetch_add(*bytes, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let bytes = Arc::new(Bytes::default());
/// let mut config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, 1 << 20));
/// config.observer = Some(bytes.clone());
/// let managed = enable_vram_management(net, source, cpu, &ModuleMap::standard(), config)?;
/// managed.run(|net, fwd| net.forward(fwd, &input))?;
/// assert_eq!(bytes.0.load(Ordering::Relaxed), 16 << 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Observer: Debug + Send + Sync {
    /// Receives one event.
    fn event(&self, event: &Event<'_>);
}

/// A stretch of time, as the host sees it.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its beginning.
    pub start: Instant,
    /// Its end.
    pub end: Instant,
}

impl Span {
    /// From `start` until now.
    pub fn since(start: Instant) -> Span {
        Span { start, end: Instant::now() }
    }

    /// Its length in seconds.
    pub fn seconds(&self) -> f64 {
        self.end.saturating_duration_since(self.start).as_secs_f64()
    }
}

/// One event.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Bytes came from the source.
    Read {
        /// Of which unit.
        unit: &'a Arc<str>,
        /// How many.
        bytes: u64,
        /// When.
        span: Span,
    },
    /// Bytes were copied to the device. The span runs from when the copy was issued until it was known to be
    /// done, which is when its staging is used again.
    Copied {
        /// Of which unit.
        unit: &'a Arc<str>,
        /// How many.
        bytes: u64,
        /// When.
        span: Span,
    },
    /// The computing thread used a unit, or on a device with queues issued the kernels that do.
    Computed {
        /// Which.
        unit: &'a Arc<str>,
        /// From its lease to the next.
        span: Span,
    },
    /// The computing thread waited for weights.
    Stalled {
        /// For which.
        unit: &'a Arc<str>,
        /// Why they were not there.
        cause: StallCause,
        /// When.
        span: Span,
    },
    /// A unit that stayed on the device was evicted.
    Evicted {
        /// Which.
        unit: &'a Arc<str>,
        /// How many bytes it held.
        bytes: u64,
        /// Why.
        reason: EvictionReason,
    },
    /// A pass has begun to use another unit of its plan.
    Progress {
        /// Uses of units that have begun, at most `total`.
        done: u64,
        /// Uses of units that the plan foresees.
        total: u64,
    },
    /// A pass ended.
    Passed {
        /// From admission to the last kernel.
        span: Span,
    },
}

/// Why weights were not there when they were needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StallCause {
    /// They were still being read.
    Disk,
    /// They waited in host memory and were still to be copied.
    Bus,
    /// The ring had no room for them until now.
    RingFull,
    /// They stay on the device and came for the first time.
    FirstLoad,
    /// The pass did not follow the trace, so they had not been fetched.
    Departure,
    /// Rows of a table, which are known only when they are needed.
    Gather,
}

/// Why a unit was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EvictionReason {
    /// The budget is smaller than it was, or others hold more of it.
    Budget,
    /// The pass needs more memory for activations.
    Workspace,
    /// The pass uses other layers, or another order.
    Trace,
    /// Memory that outlives passes was asked for.
    Session,
    /// New measurements favour other units.
    Costs,
    /// Another model of the pipeline needs the room.
    Pipeline,
    /// The model was offloaded.
    Offload,
}

impl fmt::Display for StallCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StallCause::Disk => "disk",
            StallCause::Bus => "bus",
            StallCause::RingFull => "ring full",
            StallCause::FirstLoad => "first load",
            StallCause::Departure => "departure",
            StallCause::Gather => "gather",
        })
    }
}

impl fmt::Display for EvictionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            EvictionReason::Budget => "less budget",
            EvictionReason::Workspace => "more activations",
            EvictionReason::Trace => "another order of layers",
            EvictionReason::Session => "memory that outlives passes",
            EvictionReason::Costs => "measured costs",
            EvictionReason::Pipeline => "another model of the pipeline",
            EvictionReason::Offload => "offloaded",
        })
    }
}
