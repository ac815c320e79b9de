//! The engine: residents and a ring of slots, filled by reader threads ahead of the computing layer and around the
//! end of the pass. It hands out leased buffers and knows no tensor maths.

mod acquire;
mod admit;
mod bring;
mod fetch;
mod job;
mod lease;
mod load;
mod meter;
mod pass;
mod reader;
mod slot;

use std::sync::{Arc, PoisonError, Weak};

use vram_device::{Budget, Device, Lifetime, Staging, Tier};
use vram_types::{FileRange, WeightSource};

use crate::Error;
use crate::costs::Costs;
use crate::guard::{Guard, charged, guard};
use crate::observe::{EvictionReason, Observer};
use crate::pipeline::Stages;
use crate::plan::Plan;
use crate::spec::{Layer, LayerId, LayerSpec};
use crate::state::State;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::JoinHandle;
use crate::sync::{Mutex, MutexGuard};
use admit::Admitted;
pub use admit::{Setting, VramLimit};
use fetch::Shared;
pub use lease::Lease;
pub(crate) use pass::{ALIGN, after_kernels};
pub use pass::{Pass, PassRequest};

/// How an [`Engine`] is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory of the device that weights, activations and scratch may take together.
    pub budget: Budget,
    /// Memory of the host for staging, and for weights that wait there, on devices with memory of their own.
    pub host_budget: Budget,
    /// Whether weights wait in host memory as far as that budget allows; of no effect where the device's memory is the
    /// host's.
    pub host_weights: bool,
    /// Bytes of the ring; the planner chooses if `None`.
    pub ring: Option<u64>,
    /// Threads that read. They wait for the disk most of the time. Fewer where the host budget would leave each of
    /// them a few sectors of staging.
    pub readers: usize,
    /// Whether units may stay on the device between passes (the `Preparing` state).
    pub residents: bool,
    /// What the first plan reckons with; assumed if `None`.
    pub costs: Option<Costs>,
    /// Whether the first passes are measured, and the plan is made anew where that would pay.
    pub calibrate: bool,
    /// Is told what happens.
    pub observer: Option<Arc<dyn Observer>>,
}

impl EngineOptions {
    /// Readers, unless it is said how many. Each has one read under way, and waits for a processor behind kernels before it asks
    /// for the next: with so many the disk has enough to do meanwhile.
    pub const READERS: usize = 8;

    /// Bytes of the largest single read, and about those of a reader's staging. Long enough for a disk's full speed beside kernels,
    /// short enough that several readers share one layer.
    pub const PIECE_BYTES: u64 = 2 << 20;

    /// Under a device budget, with 64 MiB for staging, eight readers, and the planner's own ring.
    pub fn new(budget: Budget) -> EngineOptions {
        EngineOptions {
            budget,
            host_budget: Budget::new(Tier::Host, 64 << 20),
            host_weights: false,
            ring: None,
            readers: EngineOptions::READERS,
            residents: true,
            costs: None,
            calibrate: true,
            observer: None,
        }
    }
}

/// Streams the weights of one model through one device.
///
/// One pass at a time; everything else may be called from any thread.
pub struct Engine {
    shared: Arc<Shared>,
    options: EngineOptions,
    readers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
    admitted: Mutex<Admitted>,
    /// The pipeline that it is a stage of, and which.
    pub(crate) pipeline: Mutex<Option<(Weak<Stages>, usize)>>,
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
        let host_visible = device.info().topology.host_visible;
        let mapped = host_visible && first_range(&layers).is_some_and(|r| source.map(r).is_some());
        let mut readers = options.readers.max(1);
        let align = source.alignment();
        let mut piece = EngineOptions::PIECE_BYTES.next_multiple_of(align);
        let mut staging = Vec::new();
        if !host_visible {
            // Half of it: inputs are staged as well. Fewer readers rather than reads of a few sectors.
            let half = options.host_budget.limit() / 2;
            readers = readers.min(usize::try_from(half / (16 * align)).unwrap_or(usize::MAX)).max(1);
            // A staging buffer is an allocation of the device as well.
            let share = (half / readers as u64).min(device.info().max_allocation);
            // Whole sectors, and whole elements of what is converted on the way.
            let whole = align.max(16);
            piece = piece.min(share.saturating_sub(2 * align) / whole * whole);
            if piece == 0 {
                return Err(Error::Unsupported(format!(
                    "a host budget of {} bytes is too small for {readers} staging buffers",
                    options.host_budget.limit()
                )));
            }
            for _ in 0..readers {
                let room = charged(Guard::StagingBytes, &options.host_budget)
                    .reserve(Lifetime::Weights, piece + 2 * align);
                staging.push(device.stage(room.map_err(vram_device::DeviceError::from)?)?);
            }
        }
        let staging_bytes = staging.iter().map(Staging::bytes).sum();
        let admitted = Admitted::new(&layers, options.costs.clone(), staging_bytes);
        let shared = Arc::new(Shared::new(source, device, layers, (piece, mapped), &options));
        let mut staging = staging.into_iter();
        let readers = (0..readers)
            .map(|i| reader::spawn(i, Arc::clone(&shared), staging.next()))
            .collect::<Result<_, Error>>()?;
        Ok(Engine {
            shared,
            options,
            readers,
            busy: AtomicBool::new(false),
            admitted: Mutex::new(admitted),
            pipeline: Mutex::new(None),
        })
    }

    /// Begins a pass: proves that it fits the budget and lets the readers go ahead.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`] with the smallest budget that works; [`Error::Busy`] while another pass runs;
    /// [`Error::Offloaded`] after [`offload`](Engine::offload).
    pub fn begin(&self, request: PassRequest) -> Result<Pass<'_>, Error> {
        Pass::begin(self, request)
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.shared.layers.len()
    }

    /// Name of a layer.
    pub fn layer_name(&self, layer: LayerId) -> Option<&str> {
        self.shared.layers.get(layer.0).map(Layer::name)
    }

    /// The plan in force; empty before the first pass.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.shared.lock().plan.data)
    }

    /// The state of every unit of the plan in force.
    pub fn states(&self) -> Vec<State> {
        self.shared.lock().states().to_vec()
    }

    /// The device budget.
    pub fn budget(&self) -> &Budget {
        &self.options.budget
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.shared.device
    }

    /// Bytes of all tensors of all layers.
    pub fn weights_bytes(&self) -> u64 {
        self.shared.layers.iter().map(Layer::bytes).sum()
    }

    /// Bytes that the source has read so far.
    pub fn bytes_read(&self) -> u64 {
        self.shared.source.bytes_read()
    }

    /// What plans reckon with: assumed or given at first, measured after the first passes.
    pub fn costs(&self) -> Costs {
        self.admitted().costs.clone()
    }

    /// Puts the model away: everything it holds on the device is given back. Weights in host memory stay there if the
    /// engine was told to keep them.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn offload(&self) -> Result<(), Error> {
        let _pass = self.claim()?;
        let mut admitted = self.admitted();
        admitted.active = false;
        self.release(&mut admitted, EvictionReason::Offload)
    }

    /// Makes the model the active one again; its weights come with the next pass.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn onload(&self) -> Result<(), Error> {
        let _pass = self.claim()?;
        self.admitted().active = true;
        Ok(())
    }

    /// Frees what units keep in host memory.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn forget_host(&self) -> Result<(), Error> {
        let _pass = self.claim()?;
        let mut admitted = self.admitted();
        self.release(&mut admitted, EvictionReason::Offload)?;
        admitted.host.clear();
        Ok(())
    }

    /// Begins to fill the device for a pass that comes next: residents, then as much of the beginning as the ring
    /// holds. Returns at once; a pass that then comes with the same request finds its weights on the way or there.
    ///
    /// # Errors
    /// As [`begin`](Engine::begin).
    pub fn preload(&self, request: PassRequest) -> Result<(), Error> {
        Pass::preload(self, request)
    }

    fn admitted(&self) -> MutexGuard<'_, Admitted> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Result<Claim<'_>, Error> {
        if self.busy.swap(true, Ordering::Acquire) && guard(Guard::Claim) {
            return Err(Error::Busy);
        }
        Ok(Claim(&self.busy))
    }
}

/// The right to run; one at a time.
struct Claim<'a>(&'a AtomicBool);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let mut fetch = self.shared.drain();
        fetch.stop = true;
        drop(fetch);
        self.shared.work.notify_all();
        for reader in self.readers.drain(..) {
            // A reader that panicked has nothing more to give.
            let _ = reader.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("layers", &self.layers())
            .field("weights_bytes", &self.weights_bytes())
            .field("budget", &self.options.budget)
            .finish_non_exhaustive()
    }
}

fn first_range(layers: &[Layer]) -> Option<FileRange> {
    layers.iter().flat_map(|l| &l.tensors).find_map(|t| t.located.ranges.first().copied())
}
