//! Trees of named parameters.

use std::any::Any;
use std::fmt::{self, Write as _};

use crate::Parameter;

/// A part of a model: parameters and child modules, each with a name.
///
/// Implement it with [`module!`](crate::module!), which lists the fields.
pub trait Module: Any + Send + Sync {
    /// Name of the type without its path, such as `Linear`.
    fn kind(&self) -> &'static str;

    /// Passes each parameter and module below this one to the visitor, in the order of definition.
    fn visit<'a>(&'a self, path: &mut Path, visitor: &mut dyn Visitor<'a>);

    /// Like [`visit`](Module::visit), with mutable parameters.
    fn visit_mut<'a>(&'a mut self, path: &mut Path, visitor: &mut dyn VisitorMut<'a>);

    /// This module without its type; a box returns its contents.
    fn as_module(&self) -> &dyn Module
    where
        Self: Sized,
    {
        self
    }
}

impl dyn Module {
    /// The module as a concrete type, if it has that type.
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

/// Visits the modules and parameters of a tree, each with its full name.
pub trait Visitor<'a> {
    /// Enters a module.
    fn enter_module(&mut self, _path: &Path, _module: &'a dyn Module) {}
    /// Leaves the module.
    fn leave_module(&mut self, _path: &Path, _module: &'a dyn Module) {}
    /// Visits a parameter.
    fn parameter(&mut self, path: &Path, parameter: &'a Parameter);
}

/// Visits the parameters of a tree and may change them.
pub trait VisitorMut<'a> {
    /// Visits a parameter.
    fn parameter(&mut self, path: &Path, parameter: &'a mut Parameter);
}

/// Passes a whole tree to a visitor. The root is included, with an empty path.
pub fn walk<'a>(root: &'a dyn Module, visitor: &mut dyn Visitor<'a>) {
    let mut path = Path::default();
    visitor.enter_module(&path, root);
    root.visit(&mut path, visitor);
    visitor.leave_module(&path, root);
}

/// Passes every parameter of a tree to a visitor that may change it.
pub fn walk_mut<'a>(root: &'a mut dyn Module, visitor: &mut dyn VisitorMut<'a>) {
    root.visit_mut(&mut Path::default(), visitor);
}

/// Every parameter with its full name, in the order of definition. Tied parameters appear under
/// each of their names.
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

/// A position in a tree: names joined by dots, empty at the root.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The names joined by dots.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Runs `f` one name deeper. An empty name adds nothing, so the contents of a wrapper get the
    /// wrapper's name.
    pub fn with<R>(&mut self, name: impl fmt::Display, f: impl FnOnce(&mut Path) -> R) -> R {
        let outer = self.0.len();
        if outer > 0 {
            self.0.push('.');
        }
        let start = self.0.len();
        // Writing to a string fails only if the Display of the name does; the path then has what
        // was written.
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

/// A field of a module: a [`Parameter`], a [`Module`], or an [`Option`], [`Vec`] or array of
/// these. Elements of a `Vec` or array are named by their index.
pub trait Field {
    /// Passes the contents of the field to the visitor under `name`.
    fn visit_field<'a>(&'a self, name: &str, path: &mut Path, visitor: &mut dyn Visitor<'a>);

    /// Like [`visit_field`](Field::visit_field), with mutable parameters.
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

/// Implements [`Module`] for a struct. You list all its fields, in PyTorch's order.
///
/// The name of a field in the tree is its own, or the one after `as`. `as ""` puts the contents of
/// the field one level higher, and `as _` marks a field without parameters. A field that you leave
/// out is a compile error, so none can be forgotten. Put the parameters of a generic struct in
/// brackets.
///
/// ```
/// # use vram_alloc::{Module, Parameter, module, parameter_names};
/// struct Norm { weight: Parameter, eps: f32 }
/// module! { Norm { weight, eps as _ } }
///
/// struct Net<M> { norms: Vec<Norm>, body: M, head: Option<Box<dyn Module>> }
/// module! { [M: Module] Net<M> { norms as "layer_norms", body, head } }
///
/// # fn names(norm: Norm) {
/// let net = Net { norms: vec![], body: norm, head: None };
/// assert_eq!(parameter_names(&net), ["body.weight"]);
/// # }
/// ```
///
/// ```compile_fail
/// # use vram_alloc::{Parameter, module};
/// struct Norm { weight: Parameter, bias: Parameter }
/// module! { Norm { weight } } // the bias would never be loaded
/// ```
#[macro_export]
macro_rules! module {
    ($name:ident { $($fields:tt)* }) => {
        $crate::module! { @impl [] $name [] { $($fields)* } }
    };
    ([$($generics:tt)+] $name:ident <$($argument:tt),+> { $($fields:tt)* }) => {
        $crate::module! { @impl [<$($generics)+>] $name [<$($argument),+>] { $($fields)* } }
    };
    (@impl [$($generics:tt)*] $name:ident [$($arguments:tt)*] {
        $($field:ident $(as $renamed:tt)?),* $(,)?
    }) => {
        impl $($generics)* $crate::Module for $name $($arguments)* {
            fn kind(&self) -> &'static str {
                stringify!($name)
            }
            #[allow(unused_variables)]
            fn visit<'a>(&'a self, path: &mut $crate::Path, visitor: &mut dyn $crate::Visitor<'a>) {
                let Self { $($field),* } = self;
                $($crate::module!(@visit visit_field $field path visitor $($renamed)?);)*
            }
            #[allow(unused_variables)]
            fn visit_mut<'a>(&'a mut self, path: &mut $crate::Path, visitor: &mut dyn $crate::VisitorMut<'a>) {
                let Self { $($field),* } = self;
                $($crate::module!(@visit visit_field_mut $field path visitor $($renamed)?);)*
            }
        }
    };
    (@visit $visit:ident $field:ident $path:ident $visitor:ident _) => {};
    (@visit $visit:ident $field:ident $path:ident $visitor:ident) => {
        $crate::Field::$visit($field, stringify!($field), $path, $visitor)
    };
    (@visit $visit:ident $field:ident $path:ident $visitor:ident $renamed:literal) => {
        $crate::Field::$visit($field, $renamed, $path, $visitor)
    };
}
