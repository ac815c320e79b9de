//! What moves together: rules by the type of a module, and the layers that they make of a model.

use std::any::{Any, TypeId};
use std::collections::HashMap;

use vram_alloc::{Module, Parameter, Path, Visitor, walk};
use vram_types::{DType, WeightSource, WeightSourceExt};

use crate::Error;
use crate::forward::{Binding, Bindings};
use crate::layers;
use crate::spec::{LayerId, LayerSpec, Split};

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

/// A model's layers, where its parameters are in them, and the dtype of the first of them.
pub(crate) struct Collected {
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) bindings: Bindings,
    pub(crate) dtype: Option<DType>,
}

/// Finds the layers of a model, and their tensors in the source.
///
/// # Errors
/// [`Error::Model`] naming every parameter that no rule covers, or that the source has not or has in another shape.
pub(crate) fn collect(
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
