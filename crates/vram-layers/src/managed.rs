//! A model under management: its parameters bound to an engine by a map of rules.

use std::sync::{Arc, Mutex, PoisonError};

use vram_alloc::Module;
use vram_device::{Arena, Budget, Device, Kernels, Tier};
use vram_types::{CancelToken, DType, WeightSource};

use crate::Error;
use crate::config::VramConfig;
use crate::converted::Converted;
use crate::costs::{Costs, LayerWork};
use crate::engine::{Engine, EngineOptions, PassRequest, Setting, VramLimit};
use crate::forward::{Bindings, Forward, Needs};
use crate::joined::in_turns;
use crate::map::{ModuleMap, collect};
use crate::plan::Plan;
use crate::report::{PassReport, Report};

/// Puts a model under management: finds the bytes of its parameters in `source` and decides by `map` which of them
/// move together. Parameters need no storage of their own; build the model inside
/// [`skip_init`](vram_alloc::skip_init).
///
/// # Errors
/// [`Error::Model`] for parameters that no rule covers, that the source has not or has in another shape (all at
/// once), [`Error::Unsupported`] for placements that cannot be.
pub fn enable_vram_management<M: Module>(
    model: M,
    source: Arc<dyn WeightSource>,
    device: Arc<dyn Kernels>,
    map: &ModuleMap,
    config: VramConfig,
) -> Result<Managed<M>, Error> {
    let dtypes = config.check(&*device)?;
    let source = match dtypes.is_checkpoint() {
        true => source,
        false => Arc::new(Converted::new(source, dtypes)?),
    };
    let collected = collect(&model, map, &config.prefix, &*source)?;
    let dtype = match config.computation.dtype {
        Some(dtype) => dtype,
        None => collected.dtype.ok_or_else(|| Error::Model("the model has no parameters".into()))?,
    };
    if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
        return Err(Error::Unsupported(format!("nothing computes in {dtype}; choose F32, BF16 or F16")));
    }
    let options = EngineOptions {
        host_budget: config.host_limit.clone(),
        ring: config.ring,
        readers: config.readers,
        residents: config.preparing.tier == Tier::Device,
        host_weights: config.onload.tier == Tier::Host,
        costs: config.costs,
        calibrate: config.calibrate,
        observer: config.observer,
        ..EngineOptions::new(config.vram_limit)
    };
    let upcast: Arc<dyn Device> = Arc::<dyn Kernels>::clone(&device);
    let engine = Arc::new(Engine::new(source, upcast, collected.layers, options)?);
    Ok(Managed {
        model,
        engine,
        device,
        dtype,
        bindings: collected.bindings,
        host_limit: config.host_limit,
        offload_to_disk: config.offload.tier == Tier::Disk,
        passes: Mutex::new(Vec::new()),
    })
}

/// A model whose weights come and go by themselves.
#[derive(Debug)]
pub struct Managed<M> {
    model: M,
    engine: Arc<Engine>,
    device: Arc<dyn Kernels>,
    dtype: DType,
    bindings: Bindings,
    host_limit: Budget,
    /// Whether weights leave host memory with their model.
    offload_to_disk: bool,
    passes: Mutex<Vec<PassReport>>,
}

/// How one pass is run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether no pass follows, so that nothing is read ahead for it.
    pub last: bool,
    /// Ends the pass early.
    pub cancel: CancelToken,
}

impl<M: Module> Managed<M> {
    /// Runs one pass. `forward` is called twice: dry, to learn the memory and the order of layers that these inputs
    /// need, and for real.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`], [`Error::Source`], [`Error::Device`], and whatever `forward` gives.
    pub fn run<R: Send>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_, '_>) -> Result<R, Error> + Sync,
    ) -> Result<R, Error> {
        self.run_with(RunOptions::default(), forward)
    }

    /// [`run`](Managed::run), with options.
    ///
    /// # Errors
    /// As [`run`](Managed::run).
    pub fn run_with<R: Send>(
        &self,
        options: RunOptions,
        forward: impl Fn(&M, &mut Forward<'_, '_>) -> Result<R, Error> + Sync,
    ) -> Result<R, Error> {
        let Needs { workspace, trace, .. } = self.measure(&forward)?;
        let request =
            PassRequest { workspace, trace: Some(trace), last: options.last, cancel: options.cancel };
        let mut pass = self.engine.begin(request)?;
        let mut result = None;
        self.device.scope(&mut || {
            let mut real =
                Forward::real(&mut pass, &*self.device, self.dtype, &self.bindings, &self.host_limit);
            result = Some(forward(&self.model, &mut real));
        });
        let result = result.ok_or_else(|| Error::Unsupported("the device ran no forward".into()))??;
        let report = pass.finish()?;
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        Ok(result)
    }

    /// Runs `count` independent forwards as one pass, layer by layer, so that each weight is fetched once for all of
    /// them: the conditional and the unconditional half of guidance, for instance. Each gives the bits that it gives
    /// alone; together they need the memory of all their activations. `forward` is told which of them it is.
    ///
    /// # Errors
    /// As [`run`](Managed::run); [`Error::Model`] if they do not use the same layers in the same order.
    pub fn run_joined<R: Send>(
        &self,
        options: RunOptions,
        count: usize,
        forward: impl Fn(&M, &mut Forward<'_, '_>, usize) -> Result<R, Error> + Sync,
    ) -> Result<Vec<R>, Error> {
        let (kernels, bindings, host) = (&*self.device, &self.bindings, &self.host_limit);
        let arena = Arena::measuring_within(kernels.info().max_allocation);
        let traces = in_turns(count, |seat, index| {
            let mut dry = Forward::dry_in(arena.clone(), Some(seat), kernels, self.dtype, bindings, host);
            drop(forward(&self.model, &mut dry, index)?);
            Ok(dry.measured().trace)
        })?;
        let Some(trace) = traces.into_iter().next() else { return Ok(Vec::new()) };
        let workspace = arena.high_water();
        let request =
            PassRequest { workspace, trace: Some(trace), last: options.last, cancel: options.cancel };
        let pass = Mutex::new(self.engine.begin(request)?);
        let results = in_turns(count, |seat, index| {
            let mut real = Forward::joined(&pass, seat, kernels, self.dtype, bindings, host);
            forward(&self.model, &mut real, index)
        })?;
        let report = pass.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
        self.passes.lock().unwrap_or_else(PoisonError::into_inner).push(report);
        Ok(results)
    }

    /// The smallest budget in bytes under which such a pass runs.
    ///
    /// # Errors
    /// Whatever `forward` gives.
    pub fn minimum_budget<R>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_, '_>) -> Result<R, Error>,
    ) -> Result<u64, Error> {
        let Needs { workspace, trace, .. } = self.measure(&forward)?;
        self.engine.minimum_budget(workspace, &trace)
    }

    /// The plan of such a pass on a machine that need not be this one. The workspace is that of this device's kernels.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`], and whatever `forward` gives.
    pub fn plan_for<R>(
        &self,
        setting: &Setting,
        costs: impl FnOnce(&[LayerWork]) -> Costs,
        forward: impl Fn(&M, &mut Forward<'_, '_>) -> Result<R, Error>,
    ) -> Result<Plan, Error> {
        let needs = self.measure(&forward)?;
        let costs = costs(&self.engine.work(&needs.trace, &needs.flops));
        self.engine.plan_for(setting, &costs, needs.workspace, &needs.trace)
    }

    /// What each layer does in such a pass, by [`LayerId`](crate::LayerId).
    ///
    /// # Errors
    /// Whatever `forward` gives.
    pub fn work<R>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_, '_>) -> Result<R, Error>,
    ) -> Result<Vec<LayerWork>, Error> {
        let needs = self.measure(&forward)?;
        Ok(self.engine.work(&needs.trace, &needs.flops))
    }

    /// Begins to fill the device for such a pass, which comes next; see [`Engine::preload`].
    ///
    /// # Errors
    /// As [`run`](Managed::run).
    pub fn preload<R>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_, '_>) -> Result<R, Error>,
    ) -> Result<(), Error> {
        let Needs { workspace, trace, .. } = self.measure(&forward)?;
        self.engine.preload(PassRequest { workspace, trace: Some(trace), ..PassRequest::default() })
    }

    fn measure<R>(
        &self,
        forward: &impl Fn(&M, &mut Forward<'_, '_>) -> Result<R, Error>,
    ) -> Result<Needs, Error> {
        let mut dry = Forward::dry(&*self.device, self.dtype, &self.bindings, &self.host_limit);
        drop(forward(&self.model, &mut dry)?);
        Ok(dry.measured())
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The engine below, for its plan, its states and its budget.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The compute dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Puts the model away: what it holds on the device is given back, and what it holds on the host as well unless
    /// its `offload` placement is there.
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn offload(&self) -> Result<(), Error> {
        self.engine.offload()?;
        if self.offload_to_disk { self.engine.forget_host() } else { Ok(()) }
    }

    /// Changes the device budget; see [`Engine::set_limit`].
    ///
    /// # Errors
    /// As [`Engine::set_limit`].
    pub fn set_vram_limit(&self, limit: VramLimit) -> Result<(), Error> {
        self.engine.set_limit(limit)
    }

    /// Makes the model active again; see [`Engine::onload`].
    ///
    /// # Errors
    /// [`Error::Busy`] while a pass runs.
    pub fn onload(&self) -> Result<(), Error> {
        self.engine.onload()
    }

    /// What all passes so far did.
    pub fn report(&self) -> Report {
        let plan = self.engine.plan();
        let info = self.device.info();
        Report {
            device: format!("{}: {}", info.backend, info.name),
            dtype: self.dtype.name().to_ascii_lowercase(),
            budget_bytes: self.engine.budget().limit(),
            peak_bytes: self.engine.budget().peak(),
            resident_bytes: plan.resident_bytes,
            ring_bytes: plan.ring_bytes,
            weights_bytes: self.engine.weights_bytes(),
            workspace_bytes: plan.workspace_bytes,
            passes: self.passes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
