//! Trees of parameters with names.

use std::any::Any;
use std::fmt::{self, Write as _};

use crate::Parameter;

/// A part of a model: parameters and further modules, each with a name.
///
/// Write it with [`module!`](crate::module!), which lists the fields.
pub trait Module: Any + Send + Sync {
    /// Name of the type without its path, such as `Linear`.
    fn kind(&self) -> &'static str;

    /// Shows each parameter and module below this one to the visitor, in the order of definition.
    fn visit<'a>(&'a self, path: &mut Path, visitor: &mut dyn Visitor<'a>);

    /// [`visit`](Module::visit) with the parameters to be written.
    fn visit_mut<'a>(&'a mut self, path: &mut Path, visitor: &mut dyn VisitorMut<'a>);

    /// Itself without its type; a box gives what is in it.
    fn as_module(&self) -> &dyn Module
    where
        Self: Sized,
    {
        self
    }
}

impl dyn Module {
    /// The module as its own type, if it is of that type.
    pub fn downcast_ref<T: Module>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

impl fmt::Debug for dyn Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {{ .. }}", self.kind())
    }
}

impl Module for Box<dyn Module> {
    fn kind(&self) -> &'static str {
        (**self).kind()
    }
    fn visit<'a>(&'a self, path: &mut Path, visitor: &mut dyn Visitor<'a>) {
        (**self).visit(path, visitor);
    }
    fn visit_mut<'a>(&'a mut self, path: &mut Path, visitor: &mut dyn VisitorMut<'a>) {
        (**self).visit_mut(path, visitor);
    }
    fn as_module(&self) -> &dyn Module {
        &**self
    }
}

/// Sees the modules and parameters of a tree, each with its full name.
pub trait Visitor<'a> {
    /// A module, before its contents.
    fn enter_module(&mut self, _path: &Path, _module: &'a dyn Module) {}
    /// The same module, after its contents.
    fn leave_module(&mut self, _path: &Path, _module: &'a dyn Module) {}
    /// A parameter.
    fn parameter(&mut self, path: &Path, parameter: &'a Parameter);
}

/// Sees the parameters of a tree, to be written.
pub trait VisitorMut<'a> {
    /// A parameter.
    fn parameter(&mut self, path: &Path, parameter: &'a mut Parameter);
}

/// Shows a whole tree to a visitor, its root with an empty path included.
pub fn walk<'a>(root: &'a dyn Module, visitor: &mut dyn Visitor<'a>) {
    let mut path = Path::default();
    visitor.enter_module(&path, root);
    root.visit(&mut path, visitor);
    visitor.leave_module(&path, root);
}

/// Shows every parameter of a tree to a visitor, to be written.
pub fn walk_mut<'a>(root: &'a mut dyn Module, visitor: &mut dyn VisitorMut<'a>) {
    root.visit_mut(&mut Path::default(), visitor);
}

/// Every parameter with its full name, in the order of definition. Tied parameters appear under each of their names.
pub fn named_parameters(root: &dyn Module) -> Vec<(String, &Parameter)> {
    struct Collect<'a>(Vec<(String, &'a Parameter)>);
    impl<'a> Visitor<'a> for Collect<'a> {
        fn parameter(&mut self, path: &Path, parameter: &'a Parameter) {
            self.0.push((path.to_string(), parameter));
        }
    }
    let mut collect = Collect(Vec::new());
    walk(root, &mut collect);
    collect.0
}

/// The names of [`named_parameters`].
pub fn parameter_names(root: &dyn Module) -> Vec<String> {
    named_parameters(root).into_iter().map(|(name, _)| name).collect()
}

/// Where in a tree one is: names joined by dots, empty at the root.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The names joined by dots.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Runs `f` one name deeper. An empty name adds nothing, which gives a wrapper's contents the wrapper's name.
    pub fn with<R>(&mut self, name: impl fmt::Display, f: impl FnOnce(&mut Path) -> R) -> R {
        let outer = self.0.len();
        if outer > 0 {
            self.0.push('.');
        }
        let start = self.0.len();
        // Writing to a string fails only where the name's own Display does; the name is then as far as it came.
        let _ = write!(self.0, "{name}");
        if self.0.len() == start {
            self.0.truncate(outer);
        }
        let result = f(self);
        self.0.truncate(outer);
        result
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a module's field may be: a [`Parameter`], a [`Module`], or an [`Option`], [`Vec`] or array of these. The elements
/// of the latter two are named by their index.
pub trait Field {
    /// Shows what is in the field, under `name`.
    fn visit_field<'a>(&'a self, name: &str, path: &mut Path, visitor: &mut dyn Visitor<'a>);

    /// [`visit_field`](Field::visit_field) with the parameters to be written.
    fn visit_field_mut<'a>(&'a mut self, name: &str, path: &mut Path, visitor: &mut dyn VisitorMut<'a>);
}

impl Field for Parameter {
    fn visit_field<'a>(&'a self, name: &str, path: &mut Path, visitor: &mut dyn Visitor<'a>) {
        path.with(name, |path| visitor.parameter(path, self));
    }
    fn visit_field_mut<'a>(&'a mut self, name: &str, path: &mut Path, visitor: &mut dyn VisitorMut<'a>) {
        path.with(name, |path| visitor.parameter(path, self));
    }
}

impl<M: Module> Field for M {
    fn visit_field<'a>(&'a self, name: &str, path: &mut Path, visitor: &mut dyn Visitor<'a>) {
        let module = self.as_module();
        path.with(name, |path| {
            visitor.enter_module(path, module);
            module.visit(path, visitor);
            visitor.leave_module(path, module);
        });
    }
    fn visit_field_mut<'a>(&'a mut self, name: &str, path: &mut Path, visitor: &mut dyn VisitorMut<'a>) {
        path.with(name, |path| self.visit_mut(path, visitor));
    }
}

impl<F: Field> Field for Option<F> {
    fn visit_field<'a>(&'a self, name: &str, path: &mut Path, visitor: &mut dyn Visitor<'a>) {
        if let Some(field) = self {
            field.visit_field(name, path, visitor);
        }
    }
    fn visit_field_mut<'a>(&'a mut self, name: &str, path: &mut Path, visitor: &mut dyn VisitorMut<'a>) {
        if let Some(field) = self {
            field.visit_field_mut(name, path, visitor);
        }
    }
}

macro_rules! list_field {
    ([$($generics:tt)*] $list:ty) => {
        impl<$($generics)*> Field for $list {
            fn visit_field<'a>(&'a self, name: &str, path: &mut Path, visitor: &mut dyn Visitor<'a>) {
                path.with(name, |path| {
                    for (i, field) in self.iter().enumerate() {
                        field.visit_field(&i.to_string(), path, visitor);
                    }
                });
            }
            fn visit_field_mut<'a>(&'a mut self, name: &str, path: &mut Path, visitor: &mut dyn VisitorMut<'a>) {
                path.with(name, |path| {
                    for (i, field) in self.iter_mut().enumerate() {
                        field.visit_field_mut(&i.to_string(), path, visitor);
                    }
                });
            }
        }
    };
}

list_field!([F: Field] Vec<F>);
list_field!([F: Field, const N: usize] [F; N]);

/// Implements [`Module`] for a struct by listing those of its fields that hold parameters, in PyTorch's order.
///
/// A field has its own name in the tree, or the one after `as`; `as ""` puts its contents one level higher.
///
/// ```
/// # use vram_alloc::{Module, Parameter, module, parameter_names};
/// struct Norm { weight: Parameter, eps: f32 }
/// module! { Norm { weight } }
///
/// struct Net { norms: Vec<Norm>, head: Option<Box<dyn Module>> }
/// module! { Net { norms as "layer_norms", head } }
///
/// assert!(parameter_names(&Net { norms: vec![], head: None }).is_empty());
/// ```
#[macro_export]
macro_rules! module {
    ($name:ident { $($field:ident $(as $renamed:literal)?),* $(,)? }) => {
        impl $crate::Module for $name {
            fn kind(&self) -> &'static str {
                stringify!($name)
            }
            #[allow(unused_variables)]
            fn visit<'a>(&'a self, path: &mut $crate::Path, visitor: &mut dyn $crate::Visitor<'a>) {
                $($crate::Field::visit_field(&self.$field, $crate::module!(@name $field $($renamed)?), path, visitor);)*
            }
            #[allow(unused_variables)]
            fn visit_mut<'a>(&'a mut self, path: &mut $crate::Path, visitor: &mut dyn $crate::VisitorMut<'a>) {
                $($crate::Field::visit_field_mut(
                    &mut self.$field, $crate::module!(@name $field $($renamed)?), path, visitor,
                );)*
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $renamed:literal) => { $renamed };
}
