//! The size of a model, by dtype and by module.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use vram_types::{ByteSize, DType};

use crate::{Module, ParamId, Parameter, Path, Role, Visitor, walk};

/// Size of a set of parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of tensors.
    pub tensors: u64,
    /// Number of elements, usually called the number of parameters.
    pub elements: u64,
    /// Number of bytes, allocated or not.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, p: &Parameter) {
        self.tensors += 1;
        // A count that saturates cannot come from a real model.
        self.elements = self.elements.saturating_add(p.meta().elements());
        self.bytes = self.bytes.saturating_add(p.meta().bytes());
    }
}

/// The size of one module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleCount {
    /// Full name; empty for the root.
    pub path: String,
    /// Name of the type.
    pub kind: &'static str,
    /// Depth below the root.
    pub depth: usize,
    /// Weights and buffers of the module and of the modules in it.
    pub total: Count,
}

/// The size of a model, from [`counts`]. Prints as a table of the outer modules; see
/// [`Counts::table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All weights.
    pub weights: Count,
    /// All buffers, of every kind.
    pub buffers: Count,
    /// Weights and buffers by dtype.
    pub by_dtype: BTreeMap<DType, Count>,
    /// Weights and buffers by module; outer modules before inner ones, the root first.
    pub modules: Vec<ModuleCount>,
    /// Weights and buffers without storage.
    pub meta: Count,
}

/// Counts the parameters of a model. Tied parameters count once, at their first place.
pub fn counts(root: &dyn Module) -> Counts {
    let mut visitor = Counter {
        counts: Counts {
            weights: Count::default(),
            buffers: Count::default(),
            by_dtype: BTreeMap::new(),
            modules: Vec::new(),
            meta: Count::default(),
        },
        inside: Vec::new(),
        seen: HashSet::new(),
    };
    walk(root, &mut visitor);
    visitor.counts
}

impl Counts {
    /// Returns a table of the modules at most `depth` levels below the root, and of the dtypes.
    pub fn table(&self, depth: usize) -> CountsTable<'_> {
        CountsTable { counts: self, depth }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table(1).fmt(f)
    }
}

/// Prints [`Counts`] as a table.
#[derive(Clone, Copy, Debug)]
pub struct CountsTable<'a> {
    counts: &'a Counts,
    depth: usize,
}

impl fmt::Display for CountsTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: Vec<(String, &str, Count)> = self
            .counts
            .modules
            .iter()
            .filter(|m| m.depth <= self.depth)
            .map(|m| (if m.path.is_empty() { "(all)".to_owned() } else { m.path.clone() }, m.kind, m.total))
            .chain(self.counts.by_dtype.iter().map(|(d, &count)| (d.to_string(), "", count)))
            .collect();
        let width = |of: fn(&(String, &str, Count)) -> usize| shown.iter().map(of).max().unwrap_or(0);
        let (names, kinds) = (width(|r| r.0.chars().count()).max(6), width(|r| r.1.chars().count()).max(4));
        write!(
            f,
            "{:names$}  {:kinds$}  {:>7}  {:>15}  {:>10}",
            "module", "kind", "tensors", "elements", "size"
        )?;
        for (name, kind, c) in &shown {
            let size = ByteSize(c.bytes);
            write!(f, "\n{name:names$}  {kind:kinds$}  {:>7}  {:>15}  {size:>10}", c.tensors, c.elements)?;
        }
        Ok(())
    }
}

struct Counter {
    counts: Counts,
    /// The open modules, as indices into `counts.modules`.
    inside: Vec<usize>,
    seen: HashSet<ParamId>,
}

impl<'a> Visitor<'a> for Counter {
    fn enter_module(&mut self, path: &Path, module: &'a dyn Module) {
        let (path, depth) = (path.to_string(), self.inside.len());
        self.inside.push(self.counts.modules.len());
        self.counts.modules.push(ModuleCount { path, kind: module.kind(), depth, total: Count::default() });
    }

    fn leave_module(&mut self, _path: &Path, _module: &'a dyn Module) {
        self.inside.pop();
    }

    fn parameter(&mut self, _path: &Path, p: &'a Parameter) {
        if !self.seen.insert(p.id()) {
            return;
        }
        match p.role() {
            Role::Weight => self.counts.weights.add(p),
            Role::Buffer(_) => self.counts.buffers.add(p),
        }
        if p.is_meta() {
            self.counts.meta.add(p);
        }
        self.counts.by_dtype.entry(p.meta().dtype()).or_default().add(p);
        for &module in &self.inside {
            self.counts.modules[module].total.add(p);
        }
    }
}
