//! A model under management: its parameters bound to an engine by a map of rules.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vram_alloc::Module;
use vram_device::ops::Activations;
use vram_device::{Arena, Budget, Device, Kernels, Tier};
use vram_types::{CancelToken, DType, WeightSource};

use crate::engine::{Engine, EngineOptions, PassRequest, Session, Setting, VramLimit};
use crate::error::Error;
use crate::model::binding::Bindings;
use crate::model::companions::Beside;
use crate::model::config::VramConfig;
use crate::model::converted::Converted;
use crate::model::encoded::keep_encoded;
use crate::model::forward::{Forward, Surroundings};
use crate::model::joined::in_turns;
use crate::model::map::{Collected, ModuleMap, collect};
use crate::model::run::{Dry, Joined, Needs, Real};
use crate::observe::report::{DecodedOnHost, History, Report};
use crate::plan::compose::Plan;
use crate::plan::costs::{Costs, LayerWork};
use crate::spec::LayerId;

/// Puts a model under management: finds its parameters in `source`, and uses `map` to decide which of them
/// move together. Parameters need no storage; build the model inside [`skip_init`](vram_alloc::skip_init).
///
/// If the source stores the weight of a [`Linear`](crate::layers::Linear) or the table of an
/// [`Embedding`](crate::layers::Embedding) in quantised blocks and the device decodes them, they stay in
/// blocks: on disk, on the host, on the bus and on the device. The [report](Managed::report) names what is
/// decoded on the host instead, and why.
///
/// If the weight of a `Linear` is fp8 with separate scales, the device applies them as it reads the weight.
/// Weights that need any other companion tensor are refused.
///
/// # Errors
/// [`Error::Uncovered`] for parameters that no rule covers; [`Error::Incompatible`] for those that the source
/// lacks or has in another shape (all at once); [`Error::Unsupported`] for impossible placements;
/// [`Error::Companions`] for a weight whose numbers would be wrong without another tensor.
pub fn enable_vram_management<M: Module>(
    model: M,
    source: Arc<dyn WeightSource>,
    device: Arc<dyn Kernels>,
    map: &ModuleMap,
    config: VramConfig,
) -> Result<Managed<M>, Error> {
    let dtypes = config.check(&*device)?;
    let stored = Arc::clone(&source);
    let source = match dtypes.is_checkpoint() {
        true => source,
        false => Arc::new(Converted::new(source, dtypes)?),
    };
    let mut collected = collect(&model, map, &config.prefix, &*source, &Beside::of(&*stored))?;
    let dtype = match config.computation.dtype {
        Some(dtype) => dtype,
        None => collected.dtype.ok_or_else(|| Error::Model("the model has no parameters".into()))?,
    };
    if !matches!(dtype, DType::F32 | DType::BF16 | DType::F16) {
        return Err(Error::Unsupported(format!("{dtype} is not a compute dtype; choose F32, BF16 or F16")));
    }
    let Collected { layers, bindings, encoded, .. } = &mut collected;
    let decoded_on_host = keep_encoded(std::mem::take(encoded), layers, bindings, &*device, dtype)?;
    let applies = |encoding| config.activations.applies_to(encoding);
    if config.activations != Activations::Exact && !bindings.values().any(|b| applies(b.encoding)) {
        return Err(Error::Unsupported(format!(
            "activations of 8 bits are for weights in quantised blocks: {} computes with none of this model's weights in \
             blocks of a type that has them",
            device.info().name
        )));
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
        activations: config.activations,
        bindings: collected.bindings,
        host_limit: config.host_limit,
        offload_to_disk: config.offload.tier == Tier::Disk,
        decoded_on_host,
        history: Mutex::default(),
    })
}

/// A model whose weights are loaded and evicted automatically.
///
/// ```
/// use vram_layers::{ModuleMap, VramConfig, enable_vram_management};
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
/// let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, 12 << 10));
/// let managed = enable_vram_management(net, source, cpu, &ModuleMap::standard(), config)?;
/// // Known before any weight is read.
/// assert!(managed.minimum_budget(|net, fwd| net.forward(fwd, &input))? <= 12 << 10);
/// for _ in 0..3 {
///     managed.run(|net, fwd| net.forward(fwd, &input))?;
/// }
/// let report = managed.report();
/// assert!(report.peak_bytes <= 12 << 10);
/// assert_eq!((report.weights_bytes, report.total.passes), (16 << 10, 3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Managed<M> {
    model: M,
    engine: Arc<Engine>,
    device: Arc<dyn Kernels>,
    dtype: DType,
    activations: Activations,
    bindings: Bindings,
    host_limit: Budget,
    /// Whether offloading the model also frees its host memory.
    offload_to_disk: bool,
    decoded_on_host: Vec<DecodedOnHost>,
    history: Mutex<History>,
}

/// Options of one pass.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Whether no pass follows, so that nothing is read ahead.
    pub last: bool,
    /// Ends the pass early.
    pub cancel: CancelToken,
}

/// The result of a dry run: the memory that a forward needs, and the order of its layers. It belongs to the
/// model that it was [prepared](Managed::prepare) for.
#[derive(Clone, Debug)]
pub struct Prepared {
    workspace: u64,
    trace: Vec<LayerId>,
}

impl Prepared {
    /// Bytes of activations and scratch.
    pub fn workspace_bytes(&self) -> u64 {
        self.workspace
    }
}

impl<M: Module> Managed<M> {
    /// Runs one pass. `forward` is called twice: first dry, to find the memory and the order of layers that
    /// these inputs need, then for real.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`], [`Error::Source`], [`Error::Device`], and any error of `forward`.
    pub fn run<R: Send>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<R, Error> + Sync,
    ) -> Result<R, Error> {
        self.run_with(RunOptions::default(), forward)
    }

    /// [`run`](Managed::run), with options.
    ///
    /// # Errors
    /// See [`run`](Managed::run).
    pub fn run_with<R: Send>(
        &self,
        options: RunOptions,
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<R, Error> + Sync,
    ) -> Result<R, Error> {
        let prepared = self.prepare(&forward)?;
        self.run_prepared(&prepared, options, &forward)
    }

    /// Runs a forward dry, for passes that need no more memory than it does: steps of a decoder, or of a
    /// denoising loop. If the memory grows from step to step, prepare the largest step.
    ///
    /// # Errors
    /// Any error of `forward`.
    pub fn prepare<R>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<R, Error>,
    ) -> Result<Prepared, Error> {
        let Needs { workspace, trace, .. } = self.measure(&forward)?;
        Ok(Prepared { workspace, trace })
    }

    /// Runs one pass without its own dry run. If the plan in force will do, as it does for the same
    /// preparation again, nothing is planned.
    ///
    /// # Errors
    /// See [`run`](Managed::run); an error that [`is_oom`](Error::is_oom) if `forward` takes more memory than
    /// was prepared for.
    pub fn run_prepared<R: Send>(
        &self,
        prepared: &Prepared,
        options: RunOptions,
        forward: impl FnOnce(&M, &mut Forward<'_>) -> Result<R, Error> + Send,
    ) -> Result<R, Error> {
        let Prepared { workspace, ref trace } = *prepared;
        let (last, cancel) = (options.last, options.cancel);
        let mut pass =
            self.engine.begin(PassRequest { workspace, trace: Some(trace.clone()), last, cancel })?;
        let (mut forward, mut result) = (Some(forward), None);
        self.device.scope(&mut || {
            let mut real = Real { kernels: &*self.device, pass: &mut pass };
            let mut fwd = Forward::new(&mut real, self.surroundings());
            result = forward.take().map(|forward| forward(&self.model, &mut fwd));
        });
        let result = result.ok_or_else(|| Error::Unsupported("the device ran no forward".into()))??;
        let report = pass.finish()?;
        self.history().push(report);
        Ok(result)
    }

    /// Runs `count` independent forwards as one pass, layer by layer, so that each weight is fetched once for
    /// all of them: for instance the conditional and the unconditional half of guidance. Each gives the same
    /// bits as alone; together they need the memory of all their activations. `forward` receives its index.
    ///
    /// # Errors
    /// See [`run`](Managed::run); [`Error::Model`] if they do not use the same layers in the same order.
    pub fn run_joined<R: Send>(
        &self,
        options: RunOptions,
        count: usize,
        forward: impl Fn(&M, &mut Forward<'_>, usize) -> Result<R, Error> + Sync,
    ) -> Result<Vec<R>, Error> {
        let kernels = &*self.device;
        let arena = Arena::measuring_within(kernels.info().max_allocation);
        let traces = in_turns(count, |seat, index| {
            let mut dry = Dry::joined(kernels, arena.clone(), seat);
            drop(forward(&self.model, &mut Forward::new(&mut dry, self.surroundings()), index)?);
            Ok(dry.measured().trace)
        })?;
        let Some(trace) = traces.into_iter().next() else { return Ok(Vec::new()) };
        let workspace = arena.high_water();
        let request =
            PassRequest { workspace, trace: Some(trace), last: options.last, cancel: options.cancel };
        let pass = Mutex::new(self.engine.begin(request)?);
        let results = in_turns(count, |seat, index| {
            let mut joined = Joined { kernels, pass: &pass, seat };
            forward(&self.model, &mut Forward::new(&mut joined, self.surroundings()), index)
        })?;
        let report = pass.into_inner().unwrap_or_else(PoisonError::into_inner).finish()?;
        self.history().push(report);
        Ok(results)
    }

    /// Allocates device memory that outlives passes; see [`Engine::session`].
    ///
    /// # Errors
    /// See [`Engine::session`].
    pub fn session(&self, bytes: u64) -> Result<Session, Error> {
        self.engine.session(bytes)
    }

    /// The smallest budget in bytes under which such a pass runs.
    ///
    /// # Errors
    /// Any error of `forward`.
    pub fn minimum_budget<R>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<R, Error>,
    ) -> Result<u64, Error> {
        let Needs { workspace, trace, .. } = self.measure(&forward)?;
        self.engine.minimum_budget(workspace, &trace)
    }

    /// The plan of such a pass on a machine that may differ from this one. The workspace is that of this
    /// device's kernels.
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`], and any error of `forward`.
    pub fn plan_for<R>(
        &self,
        setting: &Setting,
        costs: impl FnOnce(&[LayerWork]) -> Costs,
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<R, Error>,
    ) -> Result<Plan, Error> {
        let needs = self.measure(&forward)?;
        let costs = costs(&self.engine.work(&needs.trace, &needs.flops));
        self.engine.plan_for(setting, &costs, needs.workspace, &needs.trace)
    }

    /// The work of each layer in such a pass, by [`LayerId`](crate::LayerId).
    ///
    /// # Errors
    /// Any error of `forward`.
    pub fn work<R>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<R, Error>,
    ) -> Result<Vec<LayerWork>, Error> {
        let needs = self.measure(&forward)?;
        Ok(self.engine.work(&needs.trace, &needs.flops))
    }

    /// Begins to fill the device for such a pass, which must come next; see [`Engine::preload`].
    ///
    /// # Errors
    /// See [`run`](Managed::run).
    pub fn preload<R>(
        &self,
        forward: impl Fn(&M, &mut Forward<'_>) -> Result<R, Error>,
    ) -> Result<(), Error> {
        let Needs { workspace, trace, .. } = self.measure(&forward)?;
        self.engine.preload(PassRequest { workspace, trace: Some(trace), ..PassRequest::default() })
    }

    fn measure<R>(
        &self,
        forward: &impl Fn(&M, &mut Forward<'_>) -> Result<R, Error>,
    ) -> Result<Needs, Error> {
        let mut dry = Dry::new(&*self.device);
        drop(forward(&self.model, &mut Forward::new(&mut dry, self.surroundings()))?);
        Ok(dry.measured())
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            kernels: &*self.device,
            dtype: self.dtype,
            activations: self.activations,
            bindings: &self.bindings,
            host_budget: &self.host_limit,
        }
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

    /// Offloads the model: gives back what it holds on the device, and also what it holds on the host unless
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
    /// See [`Engine::set_limit`].
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

    /// What passes did: totals, and the last passes one by one.
    pub fn report(&self) -> Report {
        let plan = self.engine.plan();
        let info = self.device.info();
        let (total, passes) = self.history().told();
        Report {
            device: format!("{}: {}", info.backend, info.name),
            dtype: self.dtype.name().to_ascii_lowercase(),
            budget_bytes: self.engine.budget().limit(),
            peak_bytes: self.engine.budget().peak(),
            resident_bytes: plan.resident_bytes,
            ring_bytes: plan.ring_bytes,
            weights_bytes: self.engine.weights_bytes(),
            workspace_bytes: plan.workspace_bytes,
            decoded_on_host: self.decoded_on_host.clone(),
            total,
            passes,
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Written in one call, which does not panic half-way.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
