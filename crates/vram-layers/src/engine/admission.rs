//! Decides which pass may run, under which plan, and with which memory.

use std::sync::{Arc, PoisonError, Weak};

use vram_device::{Arena, Budget, Reservation};

use super::arena::first_fit;
use super::calibration::{Calibration, Measured};
use super::context::Context;
use super::guard::{For, is_claimed};
use super::handover::{Evicted, Handover, Shelf};
use super::options::{EngineOptions, Setting, VramLimit};
use super::planner::{Planner, Standing};
use super::request::PassRequest;
use super::session::Session;
use super::shared::Shared;
use super::store::Stock;
use super::terms::{Need, Terms};
use crate::error::Error;
use crate::observe::event::{Event, EvictionReason};
use crate::observe::report::Eviction;
use crate::plan::compose::{Plan, PlanInput, Planned, forecast, plan, predict};
use crate::plan::costs::Costs;
use crate::plan::partition::UnitId;
use crate::spec::{Layer, LayerId, Split};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A new plan must save at least one part in `WORTH` of a pass.
const WORTH: u64 = 32;

/// The other models that share the budget and make room for each other.
pub(crate) trait Neighbours: Send + Sync {
    /// Makes room for a pass of a stage that holds `own` bytes of the budget and has no plan in force that
    /// fits.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`] if everything that the others could give is not enough.
    fn make_room(&self, stage: usize, own: u64, input: &PlanInput<'_>) -> Result<(), Error>;

    /// Counts an admitted pass of a stage.
    fn count(&self, stage: usize);
}

pub(crate) struct Admission {
    planner: Planner,
    /// Whether a pass is running, or a call that excludes passes.
    busy: AtomicBool,
    /// The models that share the budget with this one, and this model's stage among them.
    neighbours: Mutex<Option<(Weak<dyn Neighbours>, usize)>>,
    // Lock order: this, then the neighbours', then the state of their idle admissions, which wait for no
    // lock, then the shared tables.
    state: Mutex<State>,
}

struct State {
    // Invariants:
    // 1. Without `terms` no plan is in force: the workspace is empty, and what is in host memory is on the
    //    shelf. With them, the tables have the plan.
    // 2. `own` bytes of the device budget are held or reserved for the plan in force and its workspace, or
    //    are left over from an earlier plan. Sessions are not included.
    active: bool,
    /// Layers in order of use: in registration order until a pass has shown another.
    trace: Vec<LayerId>,
    terms: Option<Terms>,
    own: u64,
    workspace: Arena,
    shelf: Shelf,
    /// Evictions since the last report.
    evictions: Vec<Eviction>,
    limit: Option<VramLimit>,
    calibration: Calibration,
    /// Whether measurements or a new limit call for another plan.
    replan: Option<Replan>,
}

/// Why a plan is remade although the one in force would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replan {
    Costs,
    Limit,
}

/// The right to run; one at a time.
pub(super) struct Claim<'a>(&'a AtomicBool);

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What an admitted pass receives.
pub(super) struct Grant<'a> {
    pub(super) claim: Claim<'a>,
    pub(super) plan: Arc<Planned>,
    pub(super) workspace: Arena,
    /// Bytes that the plan expects to put on the device.
    pub(super) planned_bytes: u64,
    /// About how many layers it will use.
    pub(super) uses: usize,
    /// Where measurements go, if the pass is to be measured.
    pub(super) measured: Option<Measured>,
}

/// What to report of a pass that has ended.
pub(super) struct Verdict {
    pub(super) predicted_seconds: f64,
    pub(super) bound_seconds: f64,
    pub(super) evictions: Vec<Eviction>,
}

/// Calls from the engine.
impl Admission {
    pub(super) fn new(shared: Arc<Shared>, options: EngineOptions, staging: u64) -> Admission {
        let layers = &shared.context().layers;
        let trace = (0..layers.len()).filter(|&i| layers[i].split != Split::Gather).map(LayerId).collect();
        let assumed = || Costs::assumed(layers.iter().map(Layer::bytes));
        let state = State {
            active: true,
            trace,
            terms: None,
            own: 0,
            workspace: Arena::first_fit(Vec::new()),
            shelf: Shelf::new(),
            evictions: Vec::new(),
            limit: None,
            calibration: Calibration::new(options.costs.clone().unwrap_or_else(assumed)),
            replan: None,
        };
        Admission {
            planner: Planner::new(shared, options, staging),
            busy: AtomicBool::new(false),
            neighbours: Mutex::new(None),
            state: Mutex::new(state),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        self.planner.shared()
    }

    pub(super) fn context(&self) -> &Context {
        self.planner.context()
    }

    pub(super) fn budget(&self) -> &Budget {
        self.planner.budget()
    }

    /// From now on, makes room for the neighbours, and they for this model.
    pub(super) fn join(&self, neighbours: Weak<dyn Neighbours>, stage: usize) {
        *self.neighbours.lock().unwrap_or_else(PoisonError::into_inner) = Some((neighbours, stage));
    }

    pub(super) fn costs(&self) -> Costs {
        self.state().calibration.costs().clone()
    }

    /// Admits a pass and lets the readers run ahead.
    pub(super) fn begin(&self, request: PassRequest) -> Result<Grant<'_>, Error> {
        let claim = self.claim()?;
        let passes = if request.last { 1 } else { 2 };
        let (state, measured) = self.admit_request(request)?;
        if let Some((neighbours, stage)) = self.neighbours() {
            neighbours.count(stage);
        }
        let tables = self.shared().lock();
        let (plan, planned_bytes) = (Arc::clone(tables.plan()), tables.planned_bytes());
        drop(tables);
        self.shared().open(plan.trace.len() as u64 * passes);
        let measured = measured.then(|| Measured::new(self.context().layers.len()));
        let (workspace, uses) = (state.workspace.clone(), state.trace.len());
        Ok(Grant { claim, plan, workspace, planned_bytes, uses, measured })
    }

    /// Admits a future pass and lets the readers run ahead for it.
    pub(super) fn preload(&self, request: PassRequest) -> Result<(), Error> {
        let _claim = self.claim()?;
        let _state = self.admit_request(request)?;
        let positions = self.shared().lock().plan().trace.len() as u64;
        self.shared().open(positions);
        Ok(())
    }

    /// A pass of `plan` has ended; these are the layers that it used.
    pub(super) fn finish(
        &self,
        plan: &Plan,
        used: &[LayerId],
        measured: Option<&Measured>,
    ) -> Result<Verdict, Error> {
        let mut state = self.state();
        if state.trace != used && !used.is_empty() {
            tracing::debug!("the order of this pass is the trace from now on");
            state.trace.clear();
            state.trace.extend_from_slice(used);
        }
        let planned = (plan.pass_seconds, plan.bound_seconds);
        let (predicted_seconds, bound_seconds) = state.calibration.forecast().unwrap_or(planned);
        if let Some(measured) = measured {
            self.learn(&mut state, measured)?;
        }
        let evictions = std::mem::take(&mut state.evictions);
        Ok(Verdict { predicted_seconds, bound_seconds, evictions })
    }

    pub(super) fn offload(&self) -> Result<(), Error> {
        let _claim = self.claim()?;
        let mut state = self.state();
        state.active = false;
        self.release(&mut state, EvictionReason::Offload)
    }

    pub(super) fn onload(&self) -> Result<(), Error> {
        let _claim = self.claim()?;
        self.state().active = true;
        Ok(())
    }

    pub(super) fn forget_host(&self) -> Result<(), Error> {
        let _claim = self.claim()?;
        let mut state = self.state();
        self.release(&mut state, EvictionReason::Offload)?;
        state.shelf.clear();
        Ok(())
    }

    pub(super) fn set_limit(&self, limit: VramLimit) -> Result<(), Error> {
        let _claim = self.claim()?;
        let mut state = self.state();
        self.shared().settle_leases();
        self.planner.apply_limit(limit)?;
        state.limit = Some(limit);
        let (used, limit) = (self.budget().used(), self.budget().limit());
        let Some(terms) = &state.terms else {
            return if used > limit { self.release(&mut state, EvictionReason::Budget) } else { Ok(()) };
        };
        if used <= limit {
            if terms.would_use(limit) {
                state.replan = Some(Replan::Limit);
            }
            return Ok(());
        }
        let need = terms.need().clone();
        match self.replace(&mut state, need, 0) {
            // The next pass reports it; until then nothing is held beyond the limit.
            Err(Error::BudgetTooSmall { .. }) => self.release(&mut state, EvictionReason::Budget),
            other => other.map(drop),
        }
    }

    pub(super) fn session(&self, bytes: u64) -> Result<Session, Error> {
        self.planner.sessions().open(&*self.context().device, self.session_room(bytes)?)
    }

    pub(super) fn minimum_budget(&self, workspace: u64, trace: &[LayerId]) -> Result<u64, Error> {
        self.planner.minimum_budget(self.state().standing(), workspace, trace)
    }

    pub(super) fn plan_for(
        &self,
        setting: &Setting,
        costs: &Costs,
        workspace: u64,
        trace: &[LayerId],
    ) -> Result<Plan, Error> {
        let state = self.state();
        self.planner.plan_for(Standing { costs, ..state.standing() }, setting, workspace, trace)
    }

    /// Gives back what only a running pass needs, and all residents beyond the first `keep` bytes in order of
    /// registration. Returns the bytes kept.
    pub(super) fn park(&self, keep: u64) -> Result<u64, Error> {
        let _claim = self.claim()?;
        let mut state = self.state();
        if state.terms.is_none() && state.own <= keep {
            return Ok(state.own);
        }
        state.terms = None;
        state.workspace = Arena::first_fit(Vec::new());
        let mut tables = self.shared().drain();
        tables.free_ring();
        let plan = Arc::clone(tables.plan());
        let mut kept = 0;
        let mut evicted = Vec::new();
        for (unit, of) in plan.partition.units.iter().enumerate() {
            if kept + of.bytes <= keep && tables.is_there(UnitId(unit)) {
                kept += of.bytes;
            } else if tables.evict(UnitId(unit)) {
                evicted.push((Arc::clone(&of.name), of.bytes, EvictionReason::Pipeline));
            }
        }
        drop(tables);
        state.own = kept;
        self.tell_evicted(&mut state, evicted);
        Ok(kept)
    }
}

impl State {
    fn standing(&self) -> Standing<'_> {
        let shelved = self.shelf.values().map(|host| host.bytes()).sum();
        Standing { costs: self.calibration.costs(), own: self.own, shelved }
    }
}

impl Admission {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self) -> Result<Claim<'_>, Error> {
        if is_claimed(self.busy.swap(true, Ordering::Acquire)) {
            return Err(Error::Busy);
        }
        Ok(Claim(&self.busy))
    }

    fn neighbours(&self) -> Option<(Arc<dyn Neighbours>, usize)> {
        let link = self.neighbours.lock().unwrap_or_else(PoisonError::into_inner);
        let (neighbours, stage) = link.as_ref()?;
        Some((neighbours.upgrade()?, *stage))
    }

    /// Puts a plan for a pass in force and tells the readers whether the pass is to be measured. Returns that
    /// too.
    fn admit_request(&self, request: PassRequest) -> Result<(MutexGuard<'_, State>, bool), Error> {
        let mut state = self.state();
        if !state.active {
            return Err(Error::Offloaded);
        }
        let layers = self.context().layers.len();
        if let Some(bad) = request.trace.iter().flatten().find(|l| l.0 >= layers) {
            return Err(Error::Shape(format!(
                "the trace names layer {}, but there are {layers} layers",
                bad.0
            )));
        }
        self.admit(&mut state, request.workspace, request.trace)?;
        let streams = self.shared().lock().plan().data.ring_bytes > 0;
        let measured = self.planner.may_calibrate() && streams && state.calibration.is_due();
        self.context().set_calibrating(measured);
        Ok((state, measured))
    }

    /// Puts a plan for a pass in force, unless the current one will do. Without a trace, assumes that of the
    /// pass before.
    fn admit(&self, state: &mut State, workspace: u64, trace: Option<Vec<LayerId>>) -> Result<(), Error> {
        if let Some(limit) = state.limit {
            self.planner.apply_limit(limit)?;
        }
        // Otherwise it would count as memory of others.
        self.shared().settle_leases();
        let guessed = trace.is_none();
        if let (Some(terms), None) = (&state.terms, state.replan) {
            let need = (workspace, trace.as_deref().unwrap_or(&state.trace), guessed);
            // Free memory changes all the time, so such a limit grows only when it is set.
            let may_grow = !matches!(state.limit, Some(VramLimit::LeaveFree(_)));
            if terms.cover(need, self.planner.means(state.standing(), workspace), may_grow) {
                return Ok(());
            }
        }
        let trace = trace.unwrap_or_else(|| state.trace.clone());
        self.replace(state, Need { workspace, trace, guessed }, 0).map(drop)
    }

    /// Puts another plan in force that leaves `session_bytes` more to sessions, and reserves these.
    fn replace(&self, state: &mut State, need: Need, session_bytes: u64) -> Result<Reservation, Error> {
        let Need { workspace, ref trace, guessed } = need;
        let mut means = self.planner.means(state.standing(), workspace);
        let held = means.session;
        let session = held.saturating_add(session_bytes);
        if let Some((neighbours, stage)) = self.neighbours() {
            let input = self.planner.input(state.standing(), (trace, guessed), workspace);
            let input = PlanInput { budget: means.budget, session, ..input };
            neighbours.make_room(stage, state.own + held, &input)?;
            means = self.planner.means(state.standing(), workspace);
        }
        let input = self.planner.input(state.standing(), (trace, guessed), workspace);
        let input = PlanInput { budget: means.budget, session, ..input };
        means.session = session;
        let terms = state.terms.as_ref().filter(|_| state.replan != Some(Replan::Limit));
        let new = self.planner.plan(state.standing(), &input, &need, terms)?;
        debug_assert_eq!(crate::plan::check::check(&new.data), Ok(()));
        let old = state.terms.take();
        let reason = old.map_or(EvictionReason::Budget, |old| old.reason(&need, means));
        state.own = 0;
        state.replan = None;
        state.calibration.set_forecast(None);
        state.workspace = Arena::first_fit(Vec::new());
        let mut tables = self.shared().drain();
        // Free what the new plan does not keep before reserving anything.
        let left = tables.take_stock();
        let handover = Handover::to(&new, left, &mut state.shelf, reason);
        let (residents, on_host) = handover.bytes(&new);
        let for_session = self.planner.reserve(For::Session, session_bytes)?;
        let room = self.planner.reserve(For::Residents, new.data.resident_bytes - residents)?;
        let host_room = self.planner.reserve(For::Host, new.data.host_bytes - on_host)?;
        let ring = self.planner.ring(&new)?;
        let workspace = self.planner.reserve(For::Workspace, new.data.workspace_bytes)?;
        state.workspace = first_fit(&*self.context().device, workspace)?;
        tracing::debug!(
            units = new.partition.units.len(),
            resident_bytes = new.data.resident_bytes,
            ring_bytes = new.data.ring_bytes,
            host_bytes = new.data.host_bytes,
            workspace_bytes = new.data.workspace_bytes,
            "a new plan is in force"
        );
        state.own = new.data.peak_bytes - new.data.session_bytes;
        let terms = Terms::new(need, means, &new);
        let Handover { residents, host, evicted } = handover;
        let stock = Stock { residents, host, ring, room: Some(room), host_room: Some(host_room) };
        tables.install(Arc::new(new), stock);
        drop(tables);
        self.tell_evicted(state, evicted);
        state.trace.clone_from(&terms.need().trace);
        state.terms = Some(terms);
        Ok(for_session)
    }

    /// Frees everything held on the device except sessions.
    fn release(&self, state: &mut State, reason: EvictionReason) -> Result<(), Error> {
        state.terms = None;
        state.own = 0;
        state.workspace = Arena::first_fit(Vec::new());
        let mut tables = self.shared().drain();
        let left = tables.take_stock();
        let evicted = Handover::to_nothing(left, &mut state.shelf, reason);
        tables.install(Arc::default(), Stock::default());
        drop(tables);
        self.tell_evicted(state, evicted);
        Ok(())
    }

    /// Takes in what a pass measured, and checks whether another plan would pay.
    fn learn(&self, state: &mut State, measured: &Measured) -> Result<(), Error> {
        let is_believed = state.calibration.learn(measured, self.context().take_links());
        let Some(terms) = &state.terms else { return Ok(()) };
        let current = Arc::clone(self.shared().lock().plan());
        let Need { ref trace, guessed, .. } = *terms.need();
        let mut input = self.planner.input(state.standing(), (trace, guessed), current.data.workspace_bytes);
        input.budget = terms.budget();
        let forecast = forecast(&input, &current);
        let mut pays = false;
        if is_believed {
            let now = predict(&input, &current);
            // The plan in force works: if no other can be made, it stays.
            if let Ok(better) = plan(&input) {
                let then = predict(&input, &better);
                tracing::debug!(now, then, "nanoseconds of a pass as planned, and as it could be");
                pays = then < now - now / WORTH;
            }
        }
        state.replan = state.replan.or(pays.then_some(Replan::Costs));
        state.calibration.set_forecast(Some(forecast));
        Ok(())
    }

    fn session_room(&self, bytes: u64) -> Result<Reservation, Error> {
        let reserve = || self.planner.reserve(For::Session, bytes);
        let state = self.state();
        if let Some(limit @ VramLimit::LeaveFree(_)) = state.limit {
            self.planner.apply_limit(limit)?;
        }
        if let Ok(room) = reserve() {
            return Ok(room);
        }
        drop(state);
        let _claim = self.claim()?;
        let mut state = self.state();
        // Otherwise it would count as memory of others.
        self.shared().settle_leases();
        if let Some(terms) = &state.terms {
            let need = terms.need().clone();
            return self.replace(&mut state, need, bytes);
        }
        self.make_room_without_a_plan(&mut state, bytes)?;
        reserve().map_err(|_| {
            let session = self.planner.sessions().bytes().saturating_add(bytes);
            let given = self.planner.means(state.standing(), 0).budget;
            Error::BudgetTooSmall { needed: session, given, workspace: 0, weights: 0, session }
        })
    }

    /// Evicts what is left of a plan that is no longer in force, and asks the neighbours for room as a pass
    /// would.
    fn make_room_without_a_plan(&self, state: &mut State, bytes: u64) -> Result<(), Error> {
        if let Some((neighbours, stage)) = self.neighbours() {
            let means = self.planner.means(state.standing(), 0);
            let session = means.session.saturating_add(bytes);
            let input = self.planner.input(state.standing(), (&state.trace, true), 0);
            let input = PlanInput { budget: means.budget, session, ..input };
            neighbours.make_room(stage, state.own + means.session, &input)?;
        }
        let means = self.planner.means(state.standing(), 0);
        if means.session.saturating_add(bytes) <= means.budget {
            self.release(state, EvictionReason::Session)?;
        }
        Ok(())
    }

    fn tell_evicted(&self, state: &mut State, evicted: Vec<Evicted>) {
        for (unit, bytes, reason) in evicted {
            tracing::debug!(unit = &*unit, bytes, ?reason, "evicted");
            self.context().tell(&Event::Evicted { unit: &unit, bytes, reason });
            state.evictions.push(Eviction { unit: unit.to_string(), bytes, reason });
        }
    }
}
