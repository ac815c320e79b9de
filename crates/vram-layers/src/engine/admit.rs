//! What is in force between passes, and how another plan is put in its place.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use vram_device::{Arena, DeviceError, Lifetime, Reservation, Topology};

use super::Engine;
use super::load::HostCopy;
use super::slot::Weights;
use crate::costs::{Costs, LayerWork};
use crate::guard::{Guard, charged};
use crate::observe::{Event, EvictionReason};
use crate::partition::Identity;
use crate::pipeline::Stages;
use crate::plan::{HostRoom, Plan, PlanInput, Planned, Smallest, forecast, minimum, plan, predict};
use crate::report::Eviction;
use crate::spec::{Layer, LayerId, Split};
use crate::sync::atomic::Ordering;
use crate::{Error, UnitId};

/// Passes that are measured.
const CALIBRATION: u32 = 2;

/// A new plan has to save one part in so many of a pass.
const WORTH: u64 = 32;

/// How much of the device's memory an engine may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VramLimit {
    /// So many bytes, others that share the budget included.
    Bytes(u64),
    /// All but so many bytes of what is free; asked of the device before each pass.
    LeaveFree(u64),
}

/// A device and its budgets, for a [`Plan`] that nobody follows.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// How the device's memory and queues relate to the host.
    pub topology: Topology,
    /// The device budget in bytes.
    pub budget: u64,
    /// The host budget in bytes.
    pub host_budget: u64,
    /// Of it, bytes that staging takes; of no account where the device's memory is the host's.
    pub staging: u64,
    /// Whether weights wait in host memory as far as the budget allows.
    pub host_weights: bool,
}

/// Its lock comes before the fetch state's.
pub(crate) struct Admitted {
    pub(crate) active: bool,
    /// Layers in order of use: registration order until a pass has told otherwise.
    pub(crate) trace: Vec<LayerId>,
    pub(crate) costs: Costs,
    pub(crate) workspace: Arena,
    /// Units in host memory while no plan is in force.
    pub(super) host: HashMap<Identity, HostCopy>,
    /// Evictions since the last report.
    pub(super) evictions: Vec<Eviction>,
    smallest: Smallest,
    key: Option<PlanKey>,
    /// Bytes of the device budget that the engine holds.
    pub(super) own: u64,
    limit: Option<VramLimit>,
    staging: u64,
    /// Measured passes so far.
    measured: u32,
    /// Measurements speak for another plan.
    replan: bool,
    /// What a pass of the plan in force takes and its bound, in seconds, as measured costs have it; those of the plan if
    /// `None`.
    pub(super) forecast: Option<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PlanKey {
    trace: Vec<LayerId>,
    guessed: bool,
    budget: u64,
    host: u64,
    workspace: u64,
}

/// What a pass measured of the layers: nanoseconds and uses of each.
pub(crate) struct Measured {
    pub(crate) layers: Vec<(u64, u32)>,
}

impl Admitted {
    pub(super) fn new(layers: &[Layer], costs: Option<Costs>, staging: u64) -> Admitted {
        let trace = (0..layers.len()).filter(|&i| layers[i].split != Split::Gather).map(LayerId).collect();
        Admitted {
            active: true,
            trace,
            costs: costs.unwrap_or_else(|| Costs::assumed(layers.iter().map(Layer::bytes))),
            workspace: Arena::first_fit(Vec::new()),
            host: HashMap::new(),
            evictions: Vec::new(),
            smallest: Smallest::default(),
            key: None,
            own: 0,
            limit: None,
            staging,
            measured: 0,
            replan: false,
            forecast: None,
        }
    }

    /// Takes over what is in host memory, by what it is called in every plan.
    fn keep_host(&mut self, plan: &Planned, host: Vec<Option<HostCopy>>) {
        for (unit, copy) in host.into_iter().enumerate() {
            if let Some(copy @ HostCopy::There(_)) = copy {
                self.host.insert(identity(plan, unit), copy);
            }
        }
    }
}

impl Engine {
    /// Changes how much memory the engine may take. What no longer fits is evicted now; more room is filled by the
    /// passes to come.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs; [`Error::Device`] where free memory is to be left and the device cannot tell
    /// what is free.
    pub fn set_limit(&self, limit: VramLimit) -> Result<(), Error> {
        let _pass = self.claim()?;
        let mut admitted = self.admitted();
        self.apply_limit(limit)?;
        admitted.limit = Some(limit);
        if self.options.budget.used() <= self.options.budget.limit() {
            return Ok(());
        }
        let Some(key) = admitted.key.clone() else { return Ok(()) };
        match self.admit(&mut admitted, key.workspace, key.trace, key.guessed) {
            // The next pass says so; until then nothing is held that may not be.
            Err(Error::BudgetTooSmall { .. }) => self.release(&mut admitted, EvictionReason::Budget),
            other => other,
        }
    }

    /// The smallest budget in bytes under which a pass with so much workspace runs.
    ///
    /// # Errors
    /// [`Error::Model`] if the layers cannot be laid out.
    pub fn minimum_budget(&self, workspace: u64, trace: &[LayerId]) -> Result<u64, Error> {
        let admitted = self.admitted();
        minimum(&self.plan_input(&admitted, trace, false, workspace))
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
        let admitted = self.admitted();
        let staging = if setting.topology.host_visible { 0 } else { setting.staging };
        let left = setting.host_budget.saturating_sub(staging).saturating_sub(workspace);
        let kept = if setting.host_weights && !setting.topology.host_visible { left } else { 0 };
        let input = PlanInput {
            budget: setting.budget,
            costs,
            topology: setting.topology,
            host: HostRoom { budget: setting.host_budget, staging, kept, piece: self.shared.piece },
            ..self.plan_input(&admitted, trace, false, workspace)
        };
        let planned = plan(&input)?;
        drop(admitted);
        Ok(Arc::unwrap_or_clone(planned.data))
    }

    /// What each layer does in a pass of this trace, each time it is used.
    pub(crate) fn work(&self, trace: &[LayerId], flops: &[(LayerId, u64)]) -> Vec<LayerWork> {
        let mut uses = vec![0u64; self.layers()];
        trace.iter().for_each(|layer| uses[layer.0] += 1);
        let mut work: Vec<LayerWork> =
            self.shared.layers.iter().map(|l| LayerWork { bytes: l.bytes(), flops: 0 }).collect();
        flops.iter().for_each(|(layer, flops)| work[layer.0].flops += flops);
        work.iter_mut().zip(uses).for_each(|(w, uses)| w.flops /= uses.max(1));
        work
    }

    fn apply_limit(&self, limit: VramLimit) -> Result<(), Error> {
        let budget = &self.options.budget;
        budget.set_limit(match limit {
            VramLimit::Bytes(bytes) => bytes,
            VramLimit::LeaveFree(bytes) => {
                (self.shared.device.memory()?.free.saturating_add(budget.used())).saturating_sub(bytes)
            }
        });
        Ok(())
    }

    fn plan_input<'a>(
        &'a self,
        admitted: &'a Admitted,
        trace: &'a [LayerId],
        guessed: bool,
        workspace: u64,
    ) -> PlanInput<'a> {
        let topology = self.shared.device.info().topology;
        let budget = self.options.host_budget.limit();
        let kept = if self.options.host_weights && !topology.host_visible {
            let own =
                self.shared.lock().host_bytes() + admitted.host.values().map(HostCopy::bytes).sum::<u64>();
            let others = self.options.host_budget.used().saturating_sub(own);
            // Inputs are staged one at a time, and none is larger than the workspace that it goes to.
            budget.saturating_sub(others).saturating_sub(workspace)
        } else {
            0
        };
        PlanInput {
            layers: &self.shared.layers,
            trace,
            guessed,
            budget: self.options.budget.limit(),
            workspace,
            ring: self.options.ring,
            residents: self.options.residents,
            sector: self.shared.source.alignment(),
            costs: &admitted.costs,
            topology,
            max_allocation: self.shared.device.info().max_allocation,
            host: HostRoom { budget, staging: admitted.staging, kept, piece: self.shared.piece },
            smallest: &admitted.smallest,
        }
    }

    /// Puts a plan for this workspace and trace in force, unless it is already.
    pub(super) fn admit(
        &self,
        admitted: &mut Admitted,
        workspace: u64,
        trace: Vec<LayerId>,
        guessed: bool,
    ) -> Result<(), Error> {
        if let Some(limit) = admitted.limit {
            self.apply_limit(limit)?;
        }
        // Or it would count as memory of others.
        self.shared.end_quarantine(&mut self.shared.lock());
        let (mut input, mut key) = self.key(admitted, &trace, guessed, workspace);
        if admitted.key.as_ref() == Some(&key) && !admitted.replan {
            return Ok(());
        }
        if let Some((pipeline, stage)) = self.pipeline() {
            pipeline.make_room(stage, admitted.own, &input)?;
            (input, key) = self.key(admitted, &trace, guessed, workspace);
        }
        let new = plan(&input)?;
        debug_assert_eq!(crate::check::check(&new.data), Ok(()));
        let reason = admitted.key.as_ref().map_or(EvictionReason::Budget, |old| reason(old, &key));
        admitted.key = None;
        admitted.own = 0;
        admitted.replan = false;
        admitted.forecast = None;
        admitted.workspace = Arena::first_fit(Vec::new());
        let mut fetch = self.shared.drain();
        fetch.drop_memory();
        let old = Arc::clone(&fetch.plan);
        admitted.keep_host(&old, fetch.take_host());
        let (kept, evicted) = keep(&old, fetch.take_residents(), &new, reason);
        let host = kept_on_host(&mut admitted.host, &new);
        // What the new plan does not keep is freed before anything is reserved.
        admitted.host.clear();
        let bytes = |have: &[bool]| -> u64 {
            new.partition.units.iter().zip(have).filter(|(_, have)| **have).map(|(u, _)| u.bytes).sum()
        };
        let have: Vec<bool> = kept.iter().map(Option::is_some).collect();
        let room =
            self.reserve(Guard::ResidentBytes, Lifetime::Weights, new.data.resident_bytes - bytes(&have))?;
        let have: Vec<bool> = host.iter().map(Option::is_some).collect();
        let host_room = charged(Guard::HostBytes, &self.options.host_budget)
            .reserve(Lifetime::Weights, new.data.host_bytes - bytes(&have))
            .map_err(DeviceError::from)?;
        let ring = self.ring(&new)?;
        let device = &self.shared.device;
        let buffers = buffers(workspace, device.info().max_allocation)
            .map(|bytes| {
                Ok(device.allocate(self.reserve(Guard::WorkspaceBytes, Lifetime::Pass, bytes)?)?)
            })
            .collect::<Result<_, Error>>()?;
        admitted.workspace = Arena::first_fit(buffers);
        tracing::debug!(
            units = new.partition.units.len(),
            resident_bytes = new.data.resident_bytes,
            ring_bytes = new.data.ring_bytes,
            host_bytes = new.data.host_bytes,
            workspace_bytes = workspace,
            "a new plan is in force"
        );
        admitted.own = new.data.peak_bytes;
        fetch.install(Arc::new(new), (kept, host), ring, (Some(room), Some(host_room)));
        drop(fetch);
        self.tell_evicted(admitted, evicted);
        admitted.key = Some(key);
        admitted.trace = trace;
        Ok(())
    }

    /// What a plan is made from now, and what tells it from others.
    fn key<'a>(
        &'a self,
        admitted: &'a Admitted,
        trace: &'a [LayerId],
        guessed: bool,
        workspace: u64,
    ) -> (PlanInput<'a>, PlanKey) {
        let mut input = self.plan_input(admitted, trace, guessed, workspace);
        let others = self.options.budget.used().saturating_sub(admitted.own);
        input.budget = input.budget.saturating_sub(others);
        let (budget, host) = (input.budget, input.host.kept);
        (input, PlanKey { trace: trace.to_vec(), guessed, budget, host, workspace })
    }

    /// Frees all that is held on the device.
    pub(super) fn release(&self, admitted: &mut Admitted, reason: EvictionReason) -> Result<(), Error> {
        admitted.key = None;
        admitted.own = 0;
        admitted.workspace = Arena::first_fit(Vec::new());
        let mut fetch = self.shared.drain();
        let old = Arc::clone(&fetch.plan);
        admitted.keep_host(&old, fetch.take_host());
        let (_, evicted) = keep(&old, fetch.take_residents(), &Planned::default(), reason);
        fetch.drop_memory();
        fetch.install(Arc::default(), (Vec::new(), Vec::new()), None, (None, None));
        drop(fetch);
        self.tell_evicted(admitted, evicted);
        Ok(())
    }

    /// Between passes: gives back what only a running pass needs, and of what stays all but the first `keep` bytes in
    /// order of registration. What is kept then, in bytes.
    pub(crate) fn park(&self, keep: u64) -> Result<u64, Error> {
        let _pass = self.claim()?;
        let mut admitted = self.admitted();
        if admitted.key.is_none() && admitted.own <= keep {
            return Ok(admitted.own);
        }
        admitted.key = None;
        admitted.workspace = Arena::first_fit(Vec::new());
        let mut fetch = self.shared.drain();
        fetch.drop_memory();
        let plan = Arc::clone(&fetch.plan);
        let mut kept = 0;
        let mut evicted = Vec::new();
        for (unit, of) in plan.partition.units.iter().enumerate() {
            if kept + of.bytes <= keep && fetch.is_there(UnitId(unit)) {
                kept += of.bytes;
            } else if fetch.evict(UnitId(unit)) {
                evicted.push((Arc::clone(&of.name), of.bytes, EvictionReason::Pipeline));
            }
        }
        drop(fetch);
        admitted.own = kept;
        self.tell_evicted(&mut admitted, evicted);
        Ok(kept)
    }

    pub(super) fn pipeline(&self) -> Option<(Arc<Stages>, usize)> {
        let link = self.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
        let (pipeline, stage) = link.as_ref()?;
        Some((pipeline.upgrade()?, *stage))
    }

    fn tell_evicted(&self, admitted: &mut Admitted, evicted: Vec<(Arc<str>, u64, EvictionReason)>) {
        for (unit, bytes, reason) in evicted {
            tracing::debug!(unit = &*unit, bytes, ?reason, "evicted");
            self.shared.tell(&Event::Evicted { unit: &unit, bytes, reason });
            admitted.evictions.push(Eviction { unit: unit.to_string(), bytes, reason });
        }
    }

    fn ring(&self, plan: &Planned) -> Result<Option<Arena>, Error> {
        let bytes = plan.data.ring_bytes;
        if bytes == 0 {
            return Ok(None);
        }
        let room = self.reserve(Guard::RingBytes, Lifetime::Weights, bytes)?;
        let mut streamed =
            plan.partition.units.iter().zip(&plan.resident).filter(|(_, resident)| !**resident);
        if self.shared.mapped && streamed.all(|(unit, _)| unit.packing.computed.is_empty()) {
            return Ok(Some(Arena::window(room)));
        }
        // What a map has no window of is computed into memory.
        let memory = vec![self.shared.device.allocate(room)?];
        Ok(Some(Arena::ring(memory)))
    }

    fn reserve(&self, which: Guard, lifetime: Lifetime, bytes: u64) -> Result<Reservation, Error> {
        Ok(charged(which, &self.options.budget).reserve(lifetime, bytes).map_err(DeviceError::from)?)
    }

    /// Whether the next pass is to be measured; says so to the readers.
    pub(super) fn calibrating(&self, admitted: &Admitted) -> bool {
        let streams = self.shared.lock().plan.data.ring_bytes > 0;
        let measure = self.options.calibrate && streams && admitted.measured < CALIBRATION;
        self.shared.calibrating.store(measure, Ordering::Relaxed);
        measure
    }

    /// Takes in what a pass measured, and sees whether another plan would pay.
    pub(super) fn learn(&self, admitted: &mut Admitted, measured: &Measured) -> Result<(), Error> {
        for (cost, (nanos, uses)) in admitted.costs.compute_seconds.iter_mut().zip(&measured.layers) {
            if *uses > 0 {
                *cost = *nanos as f64 / 1e9 / f64::from(*uses);
            }
        }
        if let Some(disk) = self.shared.disk.take() {
            admitted.costs.disk = disk;
        }
        if let Some(bus) = self.shared.bus.take() {
            admitted.costs.bus = bus;
        }
        admitted.measured += 1;
        let Some(key) = admitted.key.clone() else { return Ok(()) };
        let mut input = self.plan_input(admitted, &key.trace, key.guessed, key.workspace);
        input.budget = key.budget;
        let current = Arc::clone(&self.shared.lock().plan);
        let forecast = forecast(&input, &current);
        let mut replan = false;
        // The first pass meets cold memory and a cold disk: it is believed, but not alone.
        if admitted.measured == CALIBRATION {
            let now = predict(&input, &current);
            // A plan is in force that works: if no other can be made, it stays.
            if let Ok(better) = plan(&input) {
                let then = predict(&input, &better);
                tracing::debug!(now, then, "nanoseconds of a pass as planned, and as it could be");
                replan = then < now - now / WORTH;
            }
        }
        admitted.replan = replan;
        admitted.forecast = Some(forecast);
        Ok(())
    }
}

/// Sizes of the buffers of a workspace, as it was measured: as large as the device has them, and the rest.
fn buffers(workspace: u64, most: u64) -> impl Iterator<Item = u64> {
    let full = workspace.saturating_sub(1) / most.max(1);
    (0..full).map(move |_| most).chain([workspace - full * most])
}

/// What made another plan necessary.
fn reason(old: &PlanKey, new: &PlanKey) -> EvictionReason {
    if new.workspace > old.workspace {
        EvictionReason::Workspace
    } else if new.budget != old.budget {
        EvictionReason::Budget
    } else if new.trace != old.trace {
        EvictionReason::Trace
    } else {
        EvictionReason::Costs
    }
}

fn identity(plan: &Planned, unit: usize) -> Identity {
    plan.partition.units[unit].identity()
}

/// Residents of the old plan that the new one keeps, by its units, and those that have to go: these are freed here.
#[allow(clippy::type_complexity)] // two lists, both taken apart where this is called
fn keep(
    old: &Planned,
    residents: Vec<Option<Arc<Weights>>>,
    new: &Planned,
    reason: EvictionReason,
) -> (Vec<Option<Arc<Weights>>>, Vec<(Arc<str>, u64, EvictionReason)>) {
    let mut have: HashMap<Identity, (usize, Arc<Weights>)> = residents
        .into_iter()
        .enumerate()
        .filter_map(|(unit, weights)| Some((identity(old, unit), (unit, weights?))))
        .collect();
    let kept = (0..new.partition.units.len())
        .map(|unit| if new.resident[unit] { have.remove(&identity(new, unit)).map(|(_, w)| w) } else { None })
        .collect();
    let mut gone: Vec<usize> = have.into_values().map(|(unit, _)| unit).collect();
    gone.sort_unstable();
    let gone = gone.into_iter().map(|unit| &old.partition.units[unit]);
    (kept, gone.map(|unit| (Arc::clone(&unit.name), unit.bytes, reason)).collect())
}

/// Units in host memory that a plan keeps there, by its units.
fn kept_on_host(have: &mut HashMap<Identity, HostCopy>, new: &Planned) -> Vec<Option<HostCopy>> {
    (0..new.partition.units.len())
        .map(|unit| if new.cached[unit] { have.remove(&identity(new, unit)) } else { None })
        .collect()
}
