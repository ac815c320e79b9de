//! The inputs of plans: the device, its budgets, and measured costs.

use std::sync::Arc;

use vram_device::{Arena, Budget, DeviceError, Memory, Reservation};

use super::arena::ALIGN;
use super::context::Context;
use super::guard::{For, reserve};
use super::options::{EngineOptions, Setting, VramLimit};
use super::session::Sessions;
use super::shared::Shared;
use super::terms::{Means, Need, Terms, as_good};
use crate::error::Error;
use crate::plan::compose::{HostRoom, Plan, PlanInput, Planned, Smallest, minimum, plan};
use crate::plan::costs::Costs;
use crate::plan::schedule::Residency;
use crate::spec::LayerId;

pub(super) struct Planner {
    shared: Arc<Shared>,
    options: EngineOptions,
    /// Bytes of the readers' staging.
    staging: u64,
    sessions: Sessions,
    smallest: Smallest,
}

/// What a plan is made with, and what the engine holds at that time.
#[derive(Clone, Copy)]
pub(super) struct Standing<'a> {
    pub(super) costs: &'a Costs,
    /// Bytes of the device budget, without sessions.
    pub(super) own: u64,
    /// Bytes of units in host memory that are in no plan.
    pub(super) shelved: u64,
}

impl Planner {
    pub(super) fn new(shared: Arc<Shared>, options: EngineOptions, staging: u64) -> Planner {
        Planner { shared, options, staging, sessions: Sessions::default(), smallest: Smallest::default() }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn context(&self) -> &Context {
        self.shared.context()
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.options.budget
    }

    pub(super) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Whether passes may be measured.
    pub(super) fn may_calibrate(&self) -> bool {
        self.options.calibrate
    }

    /// The input for planning a pass with the whole budget.
    pub(super) fn input<'a>(
        &'a self,
        standing: Standing<'a>,
        (trace, guessed): (&'a [LayerId], bool),
        workspace: u64,
    ) -> PlanInput<'a> {
        let context = self.context();
        let info = context.device.info();
        let host = HostRoom {
            budget: self.options.host_budget.limit(),
            staging: self.staging,
            kept: self.host_room(standing, workspace),
            piece: context.piece,
        };
        PlanInput {
            layers: &context.layers,
            trace,
            guessed,
            budget: self.options.budget.limit(),
            workspace,
            session: self.sessions.bytes(),
            ring: self.options.ring,
            residents: self.options.residents,
            sector: context.source.alignment(),
            costs: standing.costs,
            topology: info.topology,
            max_allocation: info.max_allocation,
            host,
            smallest: &self.smallest,
        }
    }

    /// What is available to plan with now.
    pub(super) fn means(&self, standing: Standing<'_>, workspace: u64) -> Means {
        let (device, host) = (&self.options.budget, &self.options.host_budget);
        let session = self.sessions.bytes();
        let others = device.used().saturating_sub(standing.own).saturating_sub(session);
        Means {
            session,
            limit: device.limit(),
            host_limit: host.limit(),
            budget: device.limit().saturating_sub(others),
            host: self.host_room(standing, workspace),
        }
    }

    /// The plan with the needed workspace, or with a larger one at no other cost. `terms` are those of the
    /// plan in force, if its workspace should be kept or grow in steps.
    pub(super) fn plan(
        &self,
        standing: Standing<'_>,
        input: &PlanInput<'_>,
        need: &Need,
        terms: Option<&Terms>,
    ) -> Result<Planned, Error> {
        let exact = plan(input)?;
        let Some(workspace) = terms.and_then(|terms| terms.roomier(need, ALIGN)) else { return Ok(exact) };
        let host = HostRoom { kept: self.host_room(standing, workspace), ..input.host };
        match plan(&PlanInput { workspace, host, ..input.clone() }) {
            Ok(roomier) if as_good(&exact, &roomier) => Ok(roomier),
            Ok(_) | Err(Error::BudgetTooSmall { .. }) => Ok(exact),
            Err(e) => Err(e),
        }
    }

    /// The smallest budget in bytes under which a pass runs.
    pub(super) fn minimum_budget(
        &self,
        standing: Standing<'_>,
        workspace: u64,
        trace: &[LayerId],
    ) -> Result<u64, Error> {
        minimum(&self.input(standing, (trace, false), workspace))
    }

    /// The plan of a pass under another setting.
    pub(super) fn plan_for(
        &self,
        standing: Standing<'_>,
        setting: &Setting,
        workspace: u64,
        trace: &[LayerId],
    ) -> Result<Plan, Error> {
        let staging = if setting.topology.memory == Memory::Shared { 0 } else { setting.staging };
        let left = setting.host_budget.saturating_sub(staging).saturating_sub(workspace);
        let kept = if setting.host_weights && setting.topology.memory == Memory::Discrete { left } else { 0 };
        let input = PlanInput {
            budget: setting.budget,
            topology: setting.topology,
            host: HostRoom { budget: setting.host_budget, staging, kept, piece: self.context().piece },
            ..self.input(standing, (trace, false), workspace)
        };
        Ok(Arc::unwrap_or_clone(plan(&input)?.data))
    }

    /// Sets the budget's limit.
    pub(super) fn apply_limit(&self, limit: VramLimit) -> Result<(), Error> {
        let budget = &self.options.budget;
        budget.set_limit(match limit {
            VramLimit::Bytes(bytes) => bytes,
            VramLimit::LeaveFree(bytes) => {
                (self.context().device.memory()?.free.saturating_add(budget.used())).saturating_sub(bytes)
            }
        });
        Ok(())
    }

    /// Reserves bytes of the budget that they belong to.
    pub(super) fn reserve(&self, what: For, bytes: u64) -> Result<Reservation, Error> {
        let budget = if what == For::Host { &self.options.host_budget } else { &self.options.budget };
        Ok(reserve(what, budget, bytes).map_err(DeviceError::from)?)
    }

    /// Memory of the ring, or a share of the budget for windows of a map.
    pub(super) fn ring(&self, plan: &Planned) -> Result<Option<Arena>, Error> {
        let (context, bytes) = (self.context(), plan.data.ring_bytes);
        if bytes == 0 {
            return Ok(None);
        }
        let room = self.reserve(For::Ring, bytes)?;
        let units = plan.partition.units.iter().zip(&plan.residency);
        let mut streamed = units.filter(|(_, residency)| **residency != Residency::Device);
        if context.mapped && streamed.all(|(unit, _)| unit.packing.computed.is_empty()) {
            return Ok(Some(Arena::window(room)));
        }
        // Tensors that a map has no window of are computed into memory.
        Ok(Some(Arena::ring(vec![context.device.allocate(room)?])))
    }

    /// Bytes that weights may take on the host, after what others hold and what staging for inputs needs.
    fn host_room(&self, standing: Standing<'_>, workspace: u64) -> u64 {
        let budget = &self.options.host_budget;
        if !self.options.host_weights || self.context().shares_memory() {
            return 0;
        }
        let own = self.shared.lock().host_bytes() + standing.shelved;
        let others = budget.used().saturating_sub(own);
        // Inputs are staged one at a time, and none is larger than the workspace that it goes to.
        budget.limit().saturating_sub(others).saturating_sub(workspace)
    }
}
