//! A model under management: its parameters bound to an engine by a map of rules.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use vram_alloc::{Module, Parameter, Path, Visitor, walk};
use vram_device::{Arena, Budget, Device, Kernels, Tier};
use vram_types::{CancelToken, DType, WeightSource, WeightSourceExt};

use crate::Error;
use crate::converted::{Converted, StorageDtypes};
use crate::costs::{Costs, LayerWork};
use crate::engine::{Engine, EngineOptions, PassRequest, Setting, VramLimit};
use crate::forward::{Binding, Bindings, Forward, Needs};
use crate::joined::in_turns;
use crate::layers;
use crate::observe::Observer;
use crate::plan::Plan;
use crate::report::{PassReport, Report};
use crate::spec::{LayerId, LayerSpec, Split};
use crate::state::Placement;

/// What moves together, by the type of a module.
#[derive(Clone, Debug)]
pub struct ModuleMap {
    rules: HashMap<TypeId, Rule>,
    uncovered: Uncovered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Layer(Split),
    Wrap,
    NonRecurse,
}

/// What to do with a parameter that no rule covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uncovered {
    /// Refuse the model and name the parameter.
    #[default]
    Error,
    /// Manage it with the other parameters of its module, as one layer.
    Layer,
}

impl ModuleMap {
    /// No rules.
    pub fn new() -> ModuleMap {
        ModuleMap { rules: HashMap::new(), uncovered: Uncovered::Error }
    }

    /// Rules for the layers of this crate.
    pub fn standard() -> ModuleMap {
        let mut map = ModuleMap::new();
        for (id, split) in layers::splits() {
            map.rules.insert(id, Rule::Layer(split));
        }
        map
    }

    /// Every `T` is one layer, with all that is below it.
    #[must_use]
    pub fn layer<T: Module>(mut self, split: Split) -> ModuleMap {
        self.rules.insert(TypeId::of::<T>(), Rule::Layer(split));
        self
    }

    /// Every `T` moves as one, with all that is below it, where it fits; else its layers come apart.
    #[must_use]
    pub fn wrap<T: Module>(mut self) -> ModuleMap {
        self.rules.insert(TypeId::of::<T>(), Rule::Wrap);
        self
    }

    /// The parameters of a `T` itself are one layer; what is below it follows rules of its own.
    #[must_use]
    pub fn non_recurse<T: Module>(mut self) -> ModuleMap {
        self.rules.insert(TypeId::of::<T>(), Rule::NonRecurse);
        self
    }

    /// What to do with a parameter that no rule covers.
    #[must_use]
    pub fn uncovered(mut self, uncovered: Uncovered) -> ModuleMap {
        self.uncovered = uncovered;
        self
    }

    fn rule(&self, module: &dyn Module) -> Option<Rule> {
        let any: &dyn Any = module;
        self.rules.get(&any.type_id()).copied()
    }
}

impl Default for ModuleMap {
    fn default() -> ModuleMap {
        ModuleMap::standard()
    }
}

/// Where weights are in each of the four states, and under which limits.
#[derive(Clone, Debug)]
pub struct VramConfig {
    /// While the model is not the active one: on [`Tier::Disk`], or on [`Tier::Host`] to keep there what was.
    pub offload: Placement,
    /// While it is, for units that stream: on [`Tier::Disk`], or as far as the host limit allows on [`Tier::Host`].
    pub onload: Placement,
    /// For units that stay, as far as the limit allows. On [`Tier::Device`], or on the tier of `onload` for none. A
    /// dtype here, or on the host, is what weights are stored as once they have left the disk.
    pub preparing: Placement,
    /// While a layer computes. Its dtype is the compute dtype; the checkpoint's if `None`.
    pub computation: Placement,
    /// The device budget: weights, activations and scratch together.
    pub vram_limit: Budget,
    /// The host budget: staging, and weights that wait on the host.
    pub host_limit: Budget,
    /// Storage dtypes by parameter, before that of the placements: norms that stay f32, and the like.
    pub dtypes: StorageDtypes,
    /// Bytes of the ring; the planner chooses if `None`.
    pub ring: Option<u64>,
    /// Threads that read.
    pub readers: usize,
    /// What the first plan reckons with; assumed if `None`.
    pub costs: Option<Costs>,
    /// Whether the first passes are measured, and the plan is made anew where that would pay.
    pub calibrate: bool,
    /// Is told what happens.
    pub observer: Option<Arc<dyn Observer>>,
    /// Prefix of all the model's names in the checkpoint.
    pub prefix: String,
}

impl VramConfig {
    /// As [`disk`](VramConfig::disk), with weights waiting in host memory as far as `host_limit` allows; for devices
    /// with memory of their own.
    pub fn host(dtype: DType, vram_limit: Budget, host_limit: Budget) -> VramConfig {
        VramConfig {
            offload: Placement::on(Tier::Host),
            onload: Placement::on(Tier::Host),
            host_limit,
            ..VramConfig::disk(dtype, vram_limit)
        }
    }

    /// Weights on disk until they are needed, as many resident as the limit allows, computing in `dtype`.
    pub fn disk(dtype: DType, vram_limit: Budget) -> VramConfig {
        VramConfig {
            offload: Placement::on(Tier::Disk),
            onload: Placement::on(Tier::Disk),
            preparing: Placement::on(Tier::Device),
            computation: Placement { tier: Tier::Device, dtype: Some(dtype) },
            vram_limit,
            host_limit: Budget::new(Tier::Host, 64 << 20),
            dtypes: StorageDtypes::checkpoint(),
            ring: None,
            readers: 4,
            costs: None,
            calibrate: true,
            observer: None,
            prefix: String::new(),
        }
    }

    /// Refuses placements that cannot be, and says what weights are stored as.
    fn check(&self, device: &dyn Kernels) -> Result<StorageDtypes, Error> {
        let refuse = |what: &str| Err(Error::Unsupported(what.to_owned()));
        let mut dtype = None;
        for placement in [self.offload, self.onload, self.preparing] {
            match (placement.tier, placement.dtype) {
                (Tier::Disk, Some(_)) => {
                    return refuse(
                        "on disk, weights are in the checkpoint's own dtype; give the dtype to the placements on the host or the device",
                    );
                }
                (_, Some(this)) if dtype.is_some_and(|other| other != this) => {
                    return refuse(
                        "weights have one storage dtype on the host and on the device: a unit may be in either place, and the budget must not change the answer",
                    );
                }
                (_, this) => dtype = dtype.or(this),
            }
        }
        for placement in [self.offload, self.onload] {
            match placement.tier {
                Tier::Disk => {}
                Tier::Host if device.info().topology.host_visible => {
                    return refuse(
                        "there is no host tier on a device whose memory is the host's: what stays in host memory is on the device already",
                    );
                }
                Tier::Host => {}
                Tier::Device => {
                    return refuse(
                        "offload and onload are on the disk or the host tier; what stays is preparing",
                    );
                }
            }
        }
        if self.offload.tier == Tier::Host && self.onload.tier == Tier::Disk {
            return refuse(
                "weights that wait in host memory while their model is away do so while it is active",
            );
        }
        if self.computation.tier != Tier::Device {
            return refuse("computation is on the device tier: kernels read device memory");
        }
        if self.preparing.tier == Tier::Host && self.onload.tier == Tier::Disk {
            return refuse("preparing is on the device tier, or on the tier of onload to keep nothing");
        }
        let mut dtypes = self.dtypes.clone();
        if let Some(dtype) = dtype {
            dtypes = dtypes.or_all(dtype);
        }
        Ok(dtypes)
    }
}

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
        let arena = Arena::measuring();
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

struct Collected {
    layers: Vec<LayerSpec>,
    bindings: Bindings,
    dtype: Option<DType>,
}

fn collect(
    model: &dyn Module,
    map: &ModuleMap,
    prefix: &str,
    source: &dyn WeightSource,
) -> Result<Collected, Error> {
    let mut collect =
        Collect { map, frames: Vec::new(), layers: Vec::new(), uncovered: Vec::new(), groups: 0 };
    walk(model, &mut collect);
    if !collect.uncovered.is_empty() {
        return Err(Error::Model(format!(
            "no rule of the module map covers these parameters: {}",
            collect.uncovered.join(", ")
        )));
    }
    let mut out = Collected { layers: Vec::new(), bindings: Bindings::new(), dtype: None };
    let mut problems = Vec::new();
    for layer in collect.layers {
        let id = LayerId(out.layers.len());
        let mut names = Vec::with_capacity(layer.parameters.len());
        for (index, (path, parameter)) in layer.parameters.iter().enumerate() {
            let name = format!("{prefix}{path}");
            match source.require(&name) {
                Ok(located) if located.meta.shape() == parameter.meta().shape() => {
                    let dtype = located.meta.dtype();
                    out.dtype.get_or_insert(dtype);
                    let binding = Binding { layer: id, index, split: layer.split, dtype };
                    out.bindings.entry(parameter.id()).or_insert(binding);
                }
                Ok(located) => problems.push(format!(
                    "{name:?} has shape {} where the model needs {}",
                    located.meta.shape(),
                    parameter.meta().shape()
                )),
                Err(_) => problems.push(format!("{name:?} is missing")),
            }
            names.push(name);
        }
        let spec = LayerSpec::new(layer.name, names, layer.split);
        out.layers.push(match layer.group {
            Some(group) => spec.in_group(group),
            None => spec,
        });
    }
    if !problems.is_empty() {
        return Err(Error::Model(format!("the checkpoint does not fit the model: {}", problems.join("; "))));
    }
    Ok(out)
}

struct Found<'a> {
    name: String,
    split: Split,
    group: Option<usize>,
    parameters: Vec<(String, &'a Parameter)>,
}

struct Collect<'m, 'a> {
    map: &'m ModuleMap,
    frames: Vec<Frame>,
    layers: Vec<Found<'a>>,
    uncovered: Vec<String>,
    groups: usize,
}

/// What parameters met inside a module belong to.
#[derive(Clone)]
struct Frame {
    name: String,
    owner: Owner,
}

#[derive(Clone)]
enum Owner {
    /// No rule: each module that has parameters is uncovered, or a layer of its own.
    Nobody { layer: Option<usize> },
    /// A layer that takes everything below.
    Layer { split: Split, layer: Option<usize> },
    /// A group whose modules are each a layer.
    Group { group: usize, split: Split, layer: Option<usize> },
    /// A module's own parameters.
    Own { layer: Option<usize> },
}

impl<'a> Visitor<'a> for Collect<'_, 'a> {
    fn enter_module(&mut self, path: &Path, module: &'a dyn Module) {
        let any: &dyn Any = module;
        let split = match self.map.rule(module) {
            Some(Rule::Layer(split)) => split,
            _ => layers::splits().find(|(id, _)| *id == any.type_id()).map_or(Split::Whole, |(_, s)| s),
        };
        let owner = match self.frames.last().map(|f| &f.owner) {
            Some(Owner::Layer { split, layer }) => Owner::Layer { split: *split, layer: *layer },
            Some(Owner::Group { group, .. }) => Owner::Group { group: *group, split, layer: None },
            _ => match self.map.rule(module) {
                Some(Rule::Layer(split)) => Owner::Layer { split, layer: None },
                Some(Rule::Wrap) => {
                    self.groups += 1;
                    Owner::Group { group: self.groups, split, layer: None }
                }
                Some(Rule::NonRecurse) => Owner::Own { layer: None },
                None => Owner::Nobody { layer: None },
            },
        };
        self.frames.push(Frame { name: path.to_string(), owner });
    }

    fn leave_module(&mut self, _path: &Path, _module: &'a dyn Module) {
        let left = self.frames.pop();
        // A layer goes on in its parent, so that what follows joins the same one.
        if let (Some(Frame { owner: Owner::Layer { layer: Some(id), .. }, .. }), Some(parent)) =
            (left, self.frames.last_mut())
            && let Owner::Layer { layer, .. } = &mut parent.owner
        {
            *layer = Some(id);
        }
    }

    fn parameter(&mut self, path: &Path, parameter: &'a Parameter) {
        if !parameter.role().is_loaded() {
            return;
        }
        let Some(frame) = self.frames.last_mut() else { return };
        let (slot, split, group) = match &mut frame.owner {
            Owner::Nobody { layer } => {
                if self.map.uncovered == Uncovered::Error {
                    self.uncovered.push(path.to_string());
                    return;
                }
                (layer, Split::Whole, None)
            }
            Owner::Layer { split, layer } => (layer, *split, None),
            Owner::Group { group, split, layer } => (layer, *split, Some(*group)),
            Owner::Own { layer } => (layer, Split::Whole, None),
        };
        let layers = &mut self.layers;
        let id = *slot.get_or_insert_with(|| {
            layers.push(Found { name: frame.name.clone(), split, group, parameters: Vec::new() });
            layers.len() - 1
        });
        layers[id].parameters.push((path.to_string(), parameter));
    }
}
