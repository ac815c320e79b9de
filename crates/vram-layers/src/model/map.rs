//! What moves together: rules by module type, and the layers that a model is divided into.

use std::any::{Any, TypeId};
use std::collections::HashMap;

use vram_alloc::{Module, ParamId, Parameter, Path, Visitor, walk};
use vram_types::{DType, StorageId, TensorMeta, WeightSource};

use crate::error::Error;
use crate::error::{Incompatible, WrongShape};
use crate::layers::{self, Decodes};
use crate::model::binding::{Binding, Bindings};
use crate::model::companions::Beside;
use crate::model::encoded::{Candidate, Uses};
use crate::spec::{LayerId, LayerSpec, Split};

/// Which parameters move together, by module type.
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
/// // Each block moves as a whole if it fits; without the rule each of its layers would move separately.
/// let map = ModuleMap::standard().wrap::<Block>();
/// let config = VramConfig::disk(DType::F32, Budget::new(Tier::Device, 1 << 20));
/// let managed = enable_vram_management(net, source, cpu, &map, config)?;
/// managed.run(|net, fwd| net.forward(fwd, &input))?;
/// assert_eq!(managed.engine().plan().units.len(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

    /// Every `T` is one layer, including everything below it.
    #[must_use]
    pub fn layer<T: Module>(mut self, split: Split) -> ModuleMap {
        self.rules.insert(TypeId::of::<T>(), Rule::Layer(split));
        self
    }

    /// Every `T` moves as a whole, including everything below it, if it fits; otherwise its layers move
    /// separately.
    #[must_use]
    pub fn wrap<T: Module>(mut self) -> ModuleMap {
        self.rules.insert(TypeId::of::<T>(), Rule::Wrap);
        self
    }

    /// The parameters of a `T` itself are one layer; the modules below it follow their own rules.
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

/// A model's layers, which of their tensors the parameters are, and the dtype of the first parameter.
pub(crate) struct Collected {
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) bindings: Bindings,
    pub(crate) dtype: Option<DType>,
    /// Tensors that are stored in blocks or with scales.
    pub(crate) encoded: Vec<Candidate>,
}

/// Finds the layers of a model, and their tensors in the source.
///
/// Tied parameters, and parameters whose tensors are the same stored bytes, belong to the first layer that
/// has one of them: they are read and counted once. The source may have a tied parameter under any of its
/// names.
///
/// # Errors
/// [`Error::Uncovered`] with every parameter that no rule covers, [`Error::Incompatible`] with everything
/// that the source lacks or has in another shape, [`Error::Companions`] for a weight whose numbers need
/// something that is not supported.
pub(crate) fn collect(
    model: &dyn Module,
    map: &ModuleMap,
    prefix: &str,
    source: &dyn WeightSource,
    beside: &Beside<'_>,
) -> Result<Collected, Error> {
    let mut collect = Collect {
        map,
        frames: Vec::new(),
        layers: Vec::new(),
        uncovered: Vec::new(),
        groups: 0,
        uses: Uses::new(),
    };
    walk(model, &mut collect);
    if !collect.uncovered.is_empty() {
        return Err(Error::Uncovered { parameters: collect.uncovered });
    }
    let names = names_of(&collect.layers);
    let mut layers: Vec<(Found<'_>, Vec<String>)> = Vec::new();
    let (mut bindings, mut dtype) = (Bindings::new(), None);
    let mut problems = Incompatible::new(prefix);
    let mut stored: HashMap<(StorageId, TensorMeta), Binding> = HashMap::new();
    let (mut gathered, mut encoded) = (Vec::new(), Vec::new());
    for found in collect.layers {
        let id = LayerId(layers.len());
        let mut tensors = Vec::with_capacity(found.parameters.len());
        for (path, parameter) in &found.parameters {
            if let Some(binding) = bindings.get(&parameter.id()) {
                gathered.extend((found.split == Split::Gather).then_some(binding.layer));
                continue;
            }
            let known = names.get(&parameter.id()).map_or(&[][..], Vec::as_slice);
            let located = known.iter().find_map(|name| {
                let name = format!("{prefix}{name}");
                source.locate(&name).map(|located| (name, located))
            });
            let Some((name, located)) = located else {
                // A tied parameter counts as missing once, under its first name.
                if known.first() == Some(path) {
                    if let Some(other) = beside.instead_of(&format!("{prefix}{path}")) {
                        return Err(other);
                    }
                    problems.missing.push(format!("{prefix}{path}"));
                }
                continue;
            };
            let of = located.meta.dtype();
            let scales = beside.scales(&name, of)?;
            if located.meta.shape() != parameter.meta().shape() {
                let expected = parameter.meta().shape().clone();
                problems.mismatched.push(WrongShape { name, expected, found: located.meta.shape().clone() });
                continue;
            }
            dtype.get_or_insert(of);
            let place = (id, tensors.len());
            let binding = Binding { layer: id, index: place.1, split: found.split, encoding: of.into() };
            let uses = collect.uses.get(&parameter.id()).cloned().unwrap_or_default();
            // Computed bytes have no location to identify them, and scales belong to one name.
            let alone = located.ranges.is_empty() || scales.is_some();
            encoded.extend(Candidate::of(place, &name, &located, scales, uses));
            let binding = match alone {
                true => binding,
                false => *stored.entry((located.storage, located.meta)).or_insert(binding),
            };
            if binding.layer == id {
                tensors.push(name);
            }
            gathered.extend((found.split == Split::Gather).then_some(binding.layer));
            bindings.insert(parameter.id(), binding);
        }
        // A layer whose parameters all belong to other layers has nothing to move.
        if !tensors.is_empty() {
            layers.push((found, tensors));
        }
    }
    if !problems.is_empty() {
        problems.find_names(source);
        return Err(Error::Incompatible(Box::new(problems)));
    }
    // A table that is gathered from once is gathered from everywhere.
    for layer in &gathered {
        layers[layer.0].0.split = Split::Gather;
    }
    for binding in bindings.values_mut() {
        binding.split = layers[binding.layer.0].0.split;
    }
    let spec = |(found, tensors): (Found<'_>, Vec<String>)| {
        let spec = LayerSpec::new(found.name, tensors, found.split);
        match found.group {
            Some(group) => spec.in_group(group),
            None => spec,
        }
    };
    Ok(Collected { layers: layers.into_iter().map(spec).collect(), bindings, dtype, encoded })
}

/// All names that each parameter has in the tree.
fn names_of(layers: &[Found<'_>]) -> HashMap<ParamId, Vec<String>> {
    let mut names: HashMap<ParamId, Vec<String>> = HashMap::new();
    for (path, parameter) in layers.iter().flat_map(|found| &found.parameters) {
        names.entry(parameter.id()).or_default().push(path.clone());
    }
    names
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
    uses: Uses,
}

/// Where the parameters of a module belong.
#[derive(Clone)]
struct Frame {
    name: String,
    owner: Owner,
    decodes: Option<Decodes>,
}

#[derive(Clone)]
enum Owner {
    /// No rule: each module with parameters is uncovered, or a layer by itself.
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
        let decodes = layers::decodes(any.type_id());
        self.frames.push(Frame { name: path.to_string(), owner, decodes });
    }

    fn leave_module(&mut self, _path: &Path, _module: &'a dyn Module) {
        let left = self.frames.pop();
        // A layer continues in its parent, so that what follows joins it.
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
        self.uses.entry(parameter.id()).or_default().insert(frame.decodes);
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
