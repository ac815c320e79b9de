//! The engine: residents and a ring of slots, which reader threads fill ahead of the computing layer and
//! across the end of one pass into the next. It hands out leased buffers and knows no tensor maths.
//!
//! Each file is a type that owns its fields. From the bottom up:
//!
//! - `context` is what never changes: source, device, layers, options, meters. `guard` has every wait, order,
//!   reservation and check that keeps the rest safe.
//! - `slot` holds the weights of a unit, loading or loaded. `reads`, `work`, `rows` and `job` load them,
//!   through `staging` and `input`.
//! - `jobs`, `store`, `window`, `leases` and `states` are the `tables` under one lock: the readers' queue,
//!   where weights are, what is fetched ahead, what is in use.
//! - `shared` is how readers and the computing thread wait for each other over the tables; `reader` and
//!   `lease` are the two sides.
//! - `admission` decides which pass runs under which plan: `planner` knows what there is to plan with,
//!   `terms` what the plan in force was made for, `handover` what one plan leaves to the next, `calibration`
//!   what passes cost. It grants a `pass` or a `session`.

mod admission;
mod arena;
mod calibration;
mod context;
mod guard;
mod handover;
mod input;
mod job;
mod jobs;
mod lease;
mod leases;
mod meter;
mod options;
mod pass;
mod planner;
mod reader;
mod reads;
mod request;
mod rows;
mod session;
mod shared;
mod slot;
mod staging;
mod states;
mod store;
mod tables;
mod terms;
mod window;
mod work;

use std::sync::{Arc, Weak};

use vram_device::{Budget, Device, DeviceError, Memory, Staging};
use vram_types::{FileRange, WeightSource};

use crate::error::Error;
use crate::plan::compose::Plan;
use crate::plan::costs::{Costs, LayerWork};
use crate::spec::{Layer, LayerId, LayerSpec};
use crate::state::State;
use crate::sync::thread::JoinHandle;
use admission::Admission;
pub(crate) use admission::Neighbours;
pub(crate) use arena::ALIGN;
use context::Context;
use guard::{For, reserve};
#[cfg(feature = "mutations")]
pub use guard::{Guard, leave_out};
pub(crate) use input::write_input;
pub use lease::Lease;
pub use options::{EngineOptions, Setting, VramLimit};
pub use pass::Pass;
pub use request::PassRequest;
pub use session::Session;
use shared::Shared;

/// Streams the weights of one model through one device.
///
/// One pass runs at a time; everything else may be called from any thread. [`Managed`](crate::Managed) owns
/// an engine and drives it with a model's forward. This is how to drive it by hand:
///
/// ```
/// use std::sync::Arc;
/// use vram_device::{Budget, Device, Queue, Tier, cpu::Cpu};
/// use vram_layers::{Engine, EngineOptions, LayerId, LayerSpec, PassRequest, Split};
/// use vram_types::{DType, GeneratedSource, TensorMeta};
///
/// let metas = ["a", "b", "c"].map(|name| (name, TensorMeta::new(DType::F32, [32, 32]).unwrap()));
/// let source = Arc::new(GeneratedSource::new(metas, |tensor, _, bytes| bytes.fill(tensor as u8))?);
/// let layers = ["a", "b", "c"].map(|name| LayerSpec::new(name, vec![name.to_owned()], Split::Whole));
/// let cpu = Arc::new(Cpu::new(Default::default())?);
/// // Room for two of them.
/// let options = EngineOptions::new(Budget::new(Tier::Device, 8 << 10));
/// let engine = Engine::new(source, cpu.clone(), layers.into(), options)?;
///
/// let mut pass = engine.begin(PassRequest::default())?;
/// for layer in 0..3 {
///     // Waits for the weights and keeps them; the next ones are loaded meanwhile.
///     let lease = pass.lease(LayerId(layer), 0)?;
///     assert_eq!(lease.tensor(0)?.bytes().map(|bytes| bytes[0]), Some(layer as u8));
///     // Everything that uses them has been issued; without this they would stay until the pass ends.
///     lease.finish(cpu.ticket(Queue::Compute)?);
/// }
/// assert_eq!(pass.finish()?.disk_bytes, 3 * 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    admission: Admission,
    readers: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Finds the tensors of all layers and starts the readers. Nothing is read and no weight memory is taken before
    /// the first pass.
    ///
    /// # Errors
    /// [`Error::Source`] for a tensor that is not in the source, [`Error::Model`] for a layer whose tensors do not
    /// fit its split, [`Error::Device`] if staging does not fit the host budget.
    pub fn new(
        source: Arc<dyn WeightSource>,
        device: Arc<dyn Device>,
        layers: Vec<LayerSpec>,
        options: EngineOptions,
    ) -> Result<Engine, Error> {
        let layers: Vec<Layer> =
            layers.into_iter().map(|spec| Layer::resolve(spec, &*source)).collect::<Result<_, Error>>()?;
        let shared = device.info().topology.memory == Memory::Shared;
        let mapped = shared && first_range(&layers).is_some_and(|r| source.map(r).is_some());
        let mut readers = options.readers.max(1);
        let align = source.alignment();
        let mut piece = EngineOptions::PIECE_BYTES.next_multiple_of(align);
        let mut staging = Vec::new();
        if !shared {
            // Half of it: inputs need staging as well. Rather fewer readers than reads of a few sectors.
            let half = options.host_budget.limit() / 2;
            readers = readers.min(usize::try_from(half / (16 * align)).unwrap_or(usize::MAX)).max(1);
            // A staging buffer is also an allocation of the device.
            let share = (half / readers as u64).min(device.info().max_allocation);
            // Whole sectors, and whole elements of tensors that are converted while reading.
            let whole = align.max(16);
            piece = piece.min(share.saturating_sub(2 * align) / whole * whole);
            if piece == 0 {
                return Err(Error::Unsupported(format!(
                    "a host budget of {} bytes is too small for {readers} staging buffers",
                    options.host_budget.limit()
                )));
            }
            for _ in 0..readers {
                let room = reserve(For::Staging, &options.host_budget, piece + 2 * align);
                staging.push(device.stage(room.map_err(DeviceError::from)?)?);
            }
        }
        let staging_bytes = staging.iter().map(Staging::bytes).sum();
        let context = Context::new(source, device, layers, (piece, mapped), &options);
        let shared = Arc::new(Shared::new(context));
        let mut staging = staging.into_iter();
        let readers = (0..readers)
            .map(|i| reader::spawn(i, Arc::clone(&shared), staging.next()))
            .collect::<Result<_, Error>>()?;
        Ok(Engine { admission: Admission::new(shared, options, staging_bytes), readers })
    }

    /// Begins a pass: proves that it fits the budget, and lets the readers run ahead.
    ///
    /// The plan in force stays if it will do: the same order of layers, no larger workspace than it has room
    /// for, and nothing held beyond what is still allowed. A larger workspace causes a new plan with an
    /// eighth to spare, so that a growing one does not cause many.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`] with the smallest budget that works; [`Error::Busy`] while another pass runs;
    /// [`Error::Offloaded`] after [`offload`](Engine::offload).
    pub fn begin(&self, request: PassRequest) -> Result<Pass<'_>, Error> {
        Pass::begin(&self.admission, request)
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.admission.context().layers.len()
    }

    /// Name of a layer.
    pub fn layer_name(&self, layer: LayerId) -> Option<&str> {
        self.admission.context().layers.get(layer.0).map(Layer::name)
    }

    /// The plan in force; empty before the first pass.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.shared().lock().plan().data)
    }

    /// The state of every unit of the plan in force.
    pub fn states(&self) -> Vec<State> {
        self.shared().lock().states().to_vec()
    }

    /// The device budget.
    pub fn budget(&self) -> &Budget {
        self.admission.budget()
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.admission.context().device
    }

    /// Bytes of all tensors of all layers as they are kept.
    pub fn weights_bytes(&self) -> u64 {
        self.admission.context().layers.iter().map(Layer::bytes).sum()
    }

    /// Bytes that the source has read so far.
    pub fn bytes_read(&self) -> u64 {
        self.admission.context().source.bytes_read()
    }

    /// The costs that plans are based on: assumed or given at first, measured after the first passes.
    pub fn costs(&self) -> Costs {
        self.admission.costs()
    }

    /// Offloads the model: gives back everything it holds on the device except its [sessions](Session).
    /// Weights in host memory stay there if the engine was told to keep them.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn offload(&self) -> Result<(), Error> {
        self.admission.offload()
    }

    /// Makes the model the active one again; its weights come with the next pass.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn onload(&self) -> Result<(), Error> {
        self.admission.onload()
    }

    /// Frees what units keep in host memory.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn forget_host(&self) -> Result<(), Error> {
        self.admission.forget_host()
    }

    /// Begins to fill the device for the next pass: residents, then as much of the beginning as the ring
    /// holds. Returns at once. If the next pass has the same request, its weights are already loading or
    /// loaded.
    ///
    /// # Errors
    /// See [`begin`](Engine::begin).
    pub fn preload(&self, request: PassRequest) -> Result<(), Error> {
        self.admission.preload(request)
    }

    /// Changes how much memory the engine may take. What no longer fits is evicted now; additional room is
    /// filled by later passes.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs; [`Error::Device`] if free memory is to be left and the device
    /// cannot report its free memory.
    pub fn set_limit(&self, limit: VramLimit) -> Result<(), Error> {
        self.admission.set_limit(limit)
    }

    /// Allocates device memory that outlives passes. If the budget has no room for it, another plan is put in
    /// force that keeps fewer weights. Memory that a session gives back is used by the next pass.
    ///
    /// While a pass runs, only memory that is free is available.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`], with the budget that is needed, if the passes that the plan is for would
    /// not run beside it; [`Error::Busy`] if there is no room and a pass runs; [`Error::Device`].
    pub fn session(&self, bytes: u64) -> Result<Session, Error> {
        self.admission.session(bytes)
    }

    /// The smallest budget in bytes under which a pass with this workspace and trace runs.
    ///
    /// # Errors
    /// [`Error::Model`] if the layers cannot be laid out.
    pub fn minimum_budget(&self, workspace: u64, trace: &[LayerId]) -> Result<u64, Error> {
        self.admission.minimum_budget(workspace, trace)
    }

    /// The plan of such a pass on another machine, or on this one under other budgets.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`].
    pub fn plan_for(
        &self,
        setting: &Setting,
        costs: &Costs,
        workspace: u64,
        trace: &[LayerId],
    ) -> Result<Plan, Error> {
        self.admission.plan_for(setting, costs, workspace, trace)
    }

    /// The work of each layer in a pass of this trace, for each use.
    pub(crate) fn work(&self, trace: &[LayerId], flops: &[(LayerId, u64)]) -> Vec<LayerWork> {
        let mut uses = vec![0u64; self.layers()];
        trace.iter().for_each(|layer| uses[layer.0] += 1);
        let layers = &self.admission.context().layers;
        let mut work: Vec<LayerWork> =
            layers.iter().map(|l| LayerWork { bytes: l.bytes(), flops: 0 }).collect();
        flops.iter().for_each(|(layer, flops)| work[layer.0].flops += flops);
        work.iter_mut().zip(uses).for_each(|(w, uses)| w.flops /= uses.max(1));
        work
    }

    /// From now on, makes room for the neighbours, and they for this engine.
    pub(crate) fn join(&self, neighbours: Weak<dyn Neighbours>, stage: usize) {
        self.admission.join(neighbours, stage);
    }

    /// Between passes: gives back what only a running pass needs, and all residents beyond the first `keep`
    /// bytes in order of registration. Returns the bytes kept.
    pub(crate) fn park(&self, keep: u64) -> Result<u64, Error> {
        self.admission.park(keep)
    }

    fn shared(&self) -> &Shared {
        self.admission.shared()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared().stop();
        for reader in self.readers.drain(..) {
            // A reader that panicked has nothing more to report.
            let _ = reader.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("layers", &self.layers())
            .field("weights_bytes", &self.weights_bytes())
            .field("budget", self.budget())
            .finish_non_exhaustive()
    }
}

fn first_range(layers: &[Layer]) -> Option<FileRange> {
    layers.iter().flat_map(|l| &l.tensors).find_map(|t| t.ranges.first().copied())
}
