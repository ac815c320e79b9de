//! The engine: residents and a ring of slots, filled by reader threads ahead of the computing layer and around the
//! end of the pass. It hands out leased buffers and knows no tensor maths.

mod fetch;
mod job;
mod lease;
mod pass;
mod reader;
mod slot;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use vram_device::{Arena, Budget, Device, Lifetime, Reservation, Tier};
use vram_types::{FileRange, WeightSource};

use crate::Error;
use crate::plan::{Plan, PlanInput, plan};
use crate::spec::{Layer, LayerId, LayerSpec, Split};
use crate::state::State;
use fetch::Shared;
pub use lease::Lease;
pub(crate) use pass::ALIGN;
pub use pass::{Pass, PassRequest};
use slot::Weights;

/// Largest single read. Long enough for a disk's full speed, short enough that several readers share one layer.
const PIECE: u64 = 2 << 20;

/// How an [`Engine`] is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory of the device that weights, activations and scratch may take together.
    pub budget: Budget,
    /// Memory of the host for staging, on devices that need it.
    pub host_budget: Budget,
    /// Bytes of the ring; the planner chooses if `None`.
    pub ring: Option<u64>,
    /// Threads that read. They wait for the disk most of the time.
    pub readers: usize,
    /// Whether units may stay on the device between passes (the `Preparing` state).
    pub residents: bool,
}

impl EngineOptions {
    /// Under a device budget, with 64 MiB for staging, four readers, and the planner's own ring.
    pub fn new(budget: Budget) -> EngineOptions {
        EngineOptions {
            budget,
            host_budget: Budget::new(Tier::Host, 64 << 20),
            ring: None,
            readers: 4,
            residents: true,
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
}

/// What is in force between passes. Its lock comes before the fetch state's.
struct Admitted {
    active: bool,
    /// Layers in order of use: registration order until a pass has told otherwise.
    trace: Vec<LayerId>,
    key: Option<PlanKey>,
    workspace: Arena,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PlanKey {
    trace: Vec<LayerId>,
    guessed: bool,
    budget: u64,
    workspace: u64,
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
        let readers = options.readers.max(1);
        let align = source.alignment();
        let mut piece = PIECE.next_multiple_of(align);
        let mut staging = Vec::new();
        if !host_visible {
            // Half of it: inputs are staged as well.
            let share = options.host_budget.limit() / 2 / readers as u64;
            piece = piece.min(share.saturating_sub(2 * align) / align * align);
            if piece == 0 {
                return Err(Error::Unsupported(format!(
                    "a host budget of {} bytes is too small for {readers} staging buffers",
                    options.host_budget.limit()
                )));
            }
            for _ in 0..readers {
                let room = options.host_budget.reserve(Lifetime::Weights, piece + 2 * align);
                staging.push(device.stage(room.map_err(vram_device::DeviceError::from)?)?);
            }
        }
        let trace = (0..layers.len()).filter(|&i| layers[i].split != Split::Gather).map(LayerId).collect();
        let shared = Arc::new(Shared::new(source, device, layers, piece, mapped));
        let mut staging = staging.into_iter();
        let readers = (0..readers)
            .map(|i| reader::spawn(i, Arc::clone(&shared), staging.next()))
            .collect::<Result<_, Error>>()?;
        Ok(Engine {
            shared,
            options,
            readers,
            busy: AtomicBool::new(false),
            admitted: Mutex::new(Admitted {
                active: true,
                trace,
                key: None,
                workspace: Arena::first_fit(Vec::new()),
            }),
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

    /// The plan in force; empty before the first pass.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.shared.lock().plan)
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

    /// Puts the model away: everything it holds on the device is given back.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn offload(&self) -> Result<(), Error> {
        let _pass = self.claim()?;
        let mut admitted = self.admitted();
        admitted.active = false;
        admitted.key = None;
        admitted.workspace = Arena::first_fit(Vec::new());
        let mut fetch = self.shared.drain();
        drop(fetch.take_residents());
        fetch.drop_memory();
        fetch.install(Arc::default(), Vec::new(), None, self.reserve(Lifetime::Weights, 0)?);
        Ok(())
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

    /// The smallest budget in bytes under which a pass with so much workspace runs.
    ///
    /// # Errors
    /// [`Error::Model`] if the layers cannot be laid out.
    pub fn minimum_budget(&self, workspace: u64, trace: &[LayerId]) -> Result<u64, Error> {
        let mut input = self.plan_input(trace, false, workspace);
        input.budget = 0;
        match plan(&input) {
            Ok(plan) => Ok(plan.peak_bytes()),
            Err(Error::BudgetTooSmall { needed, .. }) => Ok(needed),
            Err(e) => Err(e),
        }
    }

    fn plan_input<'a>(&'a self, trace: &'a [LayerId], guessed: bool, workspace: u64) -> PlanInput<'a> {
        PlanInput {
            layers: &self.shared.layers,
            trace,
            guessed,
            budget: self.options.budget.limit(),
            workspace,
            ring: self.options.ring,
            residents: self.options.residents,
            sector: self.shared.source.alignment(),
        }
    }

    /// Puts a plan for this workspace and trace in force, unless it is already.
    fn admit(
        &self,
        admitted: &mut Admitted,
        workspace: u64,
        trace: Vec<LayerId>,
        guessed: bool,
    ) -> Result<(), Error> {
        let mut input = self.plan_input(&trace, guessed, workspace);
        let own = admitted.key.as_ref().map_or(0, |_| self.shared.lock().plan.peak_bytes());
        let others = self.options.budget.used().saturating_sub(own);
        input.budget = input.budget.saturating_sub(others);
        let key = PlanKey { trace: trace.clone(), guessed, budget: input.budget, workspace };
        if admitted.key.as_ref() == Some(&key) && !self.shared.lock().damaged {
            return Ok(());
        }
        let new = plan(&input)?;
        admitted.key = None;
        admitted.workspace = Arena::first_fit(Vec::new());
        let mut fetch = self.shared.drain();
        fetch.drop_memory();
        let old = Arc::clone(&fetch.plan);
        let kept = keep(&old, fetch.take_residents(), &new);
        let kept_bytes: u64 = kept
            .iter()
            .zip(&new.partition.units)
            .filter(|(weights, _)| weights.is_some())
            .map(|(_, unit)| unit.bytes)
            .sum();
        let room = self.reserve(Lifetime::Weights, new.resident_bytes - kept_bytes)?;
        let ring = self.ring(&new)?;
        let device = &self.shared.device;
        admitted.workspace =
            Arena::first_fit(vec![device.allocate(self.reserve(Lifetime::Pass, workspace)?)?]);
        tracing::debug!(
            units = new.partition.units.len(),
            resident_bytes = new.resident_bytes,
            ring_bytes = new.ring_bytes,
            workspace_bytes = workspace,
            "a new plan is in force"
        );
        fetch.install(Arc::new(new), kept, ring, room);
        drop(fetch);
        admitted.key = Some(key);
        admitted.trace = trace;
        Ok(())
    }

    fn ring(&self, plan: &Plan) -> Result<Option<Arena>, Error> {
        if plan.ring_bytes == 0 {
            return Ok(None);
        }
        let room = self.reserve(Lifetime::Weights, plan.ring_bytes)?;
        let streamed = plan.units().filter(|(_, resident)| !resident);
        if self.shared.mapped && streamed.into_iter().all(|(unit, _)| unit.packing.computed.is_empty()) {
            return Ok(Some(Arena::window(room)));
        }
        // What a map has no window of is computed into memory.
        Ok(Some(Arena::ring(vec![self.shared.device.allocate(room)?])))
    }

    fn reserve(&self, lifetime: Lifetime, bytes: u64) -> Result<Reservation, Error> {
        Ok(self.options.budget.reserve(lifetime, bytes).map_err(vram_device::DeviceError::from)?)
    }

    fn admitted(&self) -> std::sync::MutexGuard<'_, Admitted> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Result<Claim<'_>, Error> {
        if self.busy.swap(true, Ordering::Acquire) {
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

/// What identifies a unit across plans: the layers and rows that it holds.
fn identity(plan: &Plan, unit: usize) -> Vec<(LayerId, Option<Range<usize>>)> {
    plan.partition.units[unit].members.iter().map(|m| (m.layer, m.rows.clone())).collect()
}

/// Residents of the old plan that the new one keeps; the others are freed here.
fn keep(old: &Plan, residents: Vec<Option<Arc<Weights>>>, new: &Plan) -> Vec<Option<Arc<Weights>>> {
    let mut have: HashMap<_, _> = residents
        .into_iter()
        .enumerate()
        .filter_map(|(unit, weights)| Some((identity(old, unit), weights?)))
        .collect();
    (0..new.partition.units.len())
        .map(|unit| if new.resident[unit] { have.remove(&identity(new, unit)) } else { None })
        .collect()
}
