//! The files of a crate must not use each other in a circle.
//!
//! An edge leads from a file to the file that *defines* the name it uses. Re-exports are followed,
//! so a `mod.rs` or `lib.rs` that only re-exports is never part of a circle. Unit tests inside a
//! file do not count.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use syn::visit::{self, Visit};

use super::Findings;
use super::allow::Exception;
use super::sources::Source;

/// A module path within a crate, `[]` for its root.
type Module = Vec<String>;

/// What one file declares and names.
#[derive(Default)]
struct File {
    /// Path from the root of the repository.
    path: String,
    items: BTreeSet<String>,
    /// Imported names: the local name, and the path that it stands for.
    imports: BTreeMap<String, Vec<String>>,
    /// Modules from which all names are imported.
    globs: Vec<Vec<String>>,
    /// Every path that starts with `crate`, `super` or `self`, or with an imported module.
    named: BTreeSet<Vec<String>>,
}

/// Reports every circle of files in each crate, as one path around it.
pub(super) fn check(sources: &[Source], exceptions: &[Exception]) -> Result<Findings> {
    let mut crates: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources {
        if let Some((root, _)) = source.path.split_once("/src/") {
            crates.entry(root).or_default().push(source);
        }
    }
    let mut found = Findings::new();
    let mut needed = BTreeSet::new();
    for (root, sources) in crates {
        for circle in circles(root, &sources)? {
            match exceptions.iter().find(|(folder, _)| circle.iter().all(|c| c.starts_with(folder))) {
                Some((folder, _)) => drop(needed.insert(*folder)),
                None => found.push(format!("files use each other in a circle: {}", circle.join(" -> "))),
            }
        }
    }
    let idle = exceptions.iter().filter(|(folder, _)| !needed.contains(folder));
    found.extend(idle.map(|(folder, _)| format!("{folder} no longer needs its exception")));
    Ok(found)
}

fn circles(root: &str, sources: &[&Source]) -> Result<Vec<Vec<String>>> {
    let mut files: BTreeMap<Module, File> = BTreeMap::new();
    for source in sources {
        let text = syn::parse_file(&source.text).with_context(|| source.path.clone())?;
        let mut file = File { path: source.path.clone(), ..File::default() };
        file.visit_file(&text);
        files.insert(module_of(root, &source.path), file);
    }
    let edges: BTreeMap<&Module, BTreeSet<&Module>> = files
        .iter()
        .map(|(module, file)| {
            let to = file.named.iter().filter_map(|path| resolve(&files, module, path, 0));
            (module, to.filter(|to| *to != module).collect())
        })
        .collect();
    Ok(components(&edges)
        .into_iter()
        .map(|component| {
            way_round(&edges, &component).into_iter().map(|module| files[module].path.clone()).collect()
        })
        .collect())
}

/// `crates/a/src/b/c.rs` is the module `b::c`; `b/mod.rs` is `b`.
fn module_of(root: &str, path: &str) -> Module {
    let inner = path.strip_prefix(root).and_then(|p| p.strip_prefix("/src/")).unwrap_or(path);
    let mut parts: Module = inner.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The module of the file that defines the meaning of `path` in module `from`.
fn resolve<'f>(
    files: &'f BTreeMap<Module, File>,
    from: &Module,
    path: &[String],
    depth: usize,
) -> Option<&'f Module> {
    if depth > 32 {
        return None;
    }
    let mut at = from.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => {
            at.clear();
            rest = &path[1..];
        }
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|p| p == "super") {
                at.pop()?;
                rest = &rest[1..];
            }
        }
        // A module of this file or an imported one; anything else belongs to another crate.
        _ => {}
    }
    loop {
        let (here, file) = files.get_key_value(&at)?;
        let Some(name) = rest.first() else { return Some(here) };
        let mut child = at.clone();
        child.push(name.clone());
        if files.contains_key(&child) {
            at = child;
            rest = &rest[1..];
            continue;
        }
        if file.items.contains(name) {
            return Some(here);
        }
        if let Some(import) = file.imports.get(name) {
            let whole: Vec<String> = import.iter().chain(&rest[1..]).cloned().collect();
            // A name that resolves to itself belongs to another crate.
            return if whole == path && at == *from { None } else { resolve(files, &at, &whole, depth + 1) };
        }
        return file.globs.iter().find_map(|glob| {
            let whole: Vec<String> = glob.iter().chain(rest).cloned().collect();
            let to = resolve(files, &at, &whole, depth + 1)?;
            files[to].items.contains(name).then_some(to)
        });
    }
}

/// Strongly connected components of more than one node.
fn components<'m>(edges: &BTreeMap<&'m Module, BTreeSet<&'m Module>>) -> Vec<BTreeSet<&'m Module>> {
    let reach = |from: &'m Module| {
        let mut seen: BTreeSet<&Module> = BTreeSet::new();
        let mut next: Vec<&'m Module> = edges[from].iter().copied().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(edges[module].iter().copied());
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = edges.keys().map(|m| (*m, reach(m))).collect();
    let mut found: Vec<BTreeSet<&Module>> = Vec::new();
    for (module, to) in &reached {
        if to.contains(module) && !found.iter().any(|c| c.contains(module)) {
            let back = to.iter().filter(|other| reached[**other].contains(module));
            found.push(back.copied().chain([*module]).collect());
        }
    }
    found
}

/// A shortest path from the first member of a component back to itself.
fn way_round<'m>(
    edges: &BTreeMap<&'m Module, BTreeSet<&'m Module>>,
    component: &BTreeSet<&'m Module>,
) -> Vec<&'m Module> {
    let Some(&start) = component.first() else { return Vec::new() };
    let mut ways: Vec<Vec<&Module>> = vec![vec![start]];
    let mut seen = BTreeSet::new();
    let mut index = 0;
    while index < ways.len() {
        let way = ways[index].clone();
        index += 1;
        for next in &edges[way[way.len() - 1]] {
            if *next == start {
                return way.into_iter().chain([start]).collect();
            }
            if component.contains(next) && seen.insert(*next) {
                ways.push(way.iter().copied().chain([*next]).collect());
            }
        }
    }
    Vec::new()
}

fn for_tests_alone(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|a| {
        a.path().is_ident("cfg")
            && matches!(&a.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

impl File {
    fn import(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: String| prefix.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            syn::UseTree::Path(path) => self.import(&with(path.ident.to_string()), &path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(prefix, tree)),
            syn::UseTree::Glob(_) => {
                self.named.insert(prefix.to_vec());
                self.globs.push(prefix.to_vec());
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                let name = prefix.last().cloned().unwrap_or_default();
                self.name(name, prefix.to_vec());
            }
            syn::UseTree::Name(name) => self.name(name.ident.to_string(), with(name.ident.to_string())),
            syn::UseTree::Rename(rename) if rename.ident == "self" => {
                self.name(rename.rename.to_string(), prefix.to_vec());
            }
            syn::UseTree::Rename(rename) => {
                self.name(rename.rename.to_string(), with(rename.ident.to_string()));
            }
        }
    }

    fn name(&mut self, name: String, path: Vec<String>) {
        self.named.insert(path.clone());
        self.imports.insert(name, path);
    }
}

impl<'ast> Visit<'ast> for File {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let (attributes, ident) = match item {
            syn::Item::Const(i) => (&i.attrs, Some(&i.ident)),
            syn::Item::Enum(i) => (&i.attrs, Some(&i.ident)),
            syn::Item::Fn(i) => (&i.attrs, Some(&i.sig.ident)),
            syn::Item::Mod(i) => (&i.attrs, i.content.as_ref().map(|_| &i.ident)),
            syn::Item::Static(i) => (&i.attrs, Some(&i.ident)),
            syn::Item::Struct(i) => (&i.attrs, Some(&i.ident)),
            syn::Item::Trait(i) => (&i.attrs, Some(&i.ident)),
            syn::Item::Type(i) => (&i.attrs, Some(&i.ident)),
            syn::Item::Union(i) => (&i.attrs, Some(&i.ident)),
            syn::Item::Macro(i) => (&i.attrs, i.ident.as_ref()),
            syn::Item::Impl(i) => (&i.attrs, None),
            syn::Item::Use(i) if for_tests_alone(&i.attrs) => return,
            syn::Item::Use(i) => return self.import(&[], &i.tree),
            _ => return visit::visit_item(self, item),
        };
        if for_tests_alone(attributes) {
            return;
        }
        self.items.extend(ident.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.named.insert(path.segments.iter().map(|s| s.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source { path: format!("crates/a/src/{path}"), text: (*text).to_owned() })
            .collect();
        let found = check(&sources, &[]).unwrap();
        let short = |line: &String| line.replace("files use each other in a circle: ", "");
        found.iter().map(|line| short(line).replace("crates/a/src/", "")).collect()
    }

    #[test]
    fn a_circle_is_named_by_a_way_round_it() {
        let files = [
            ("lib.rs", "mod b; mod c; mod d; pub use b::B;"),
            ("b.rs", "use crate::c::C; pub struct B;"),
            ("c.rs", "pub struct C; fn f() { crate::d::g(); }"),
            ("d.rs", "use super::B; pub fn g() {}"),
        ];
        assert_eq!(found(&files), ["b.rs -> c.rs -> d.rs -> b.rs"]);
    }

    #[test]
    fn what_is_re_exported_is_used_where_it_is_defined() {
        let files = [
            ("lib.rs", "mod b; mod c; pub use b::*; pub use c::C;"),
            ("b/mod.rs", "mod inner; pub use inner::Deep;"),
            ("b/inner.rs", "pub struct Deep;"),
            ("c.rs", "use crate::b::Deep; use crate::Deep as D; pub struct C;"),
        ];
        assert!(found(&files).is_empty());
    }

    #[test]
    fn a_child_that_uses_what_its_parent_defines_and_re_exports_is_a_circle() {
        let files = [
            ("lib.rs", "mod b;"),
            ("b/mod.rs", "mod inner; pub use inner::Deep; pub const N: usize = 1;"),
            ("b/inner.rs", "use super::N; pub struct Deep;"),
        ];
        assert_eq!(found(&files), ["b/mod.rs -> b/inner.rs -> b/mod.rs"]);
    }

    #[test]
    fn unit_tests_do_not_count_and_exceptions_must_be_needed() {
        let files = [
            ("lib.rs", "mod b; mod c;"),
            ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::c::C; }"),
            ("c.rs", "use crate::b::B; pub struct C;"),
        ];
        assert!(found(&files).is_empty());
        let source = Source { path: "crates/a/src/lib.rs".into(), text: String::new() };
        assert_eq!(
            check(&[source], &[("crates/a/src/lib.rs", "none")]).unwrap(),
            ["crates/a/src/lib.rs no longer needs its exception"]
        );
    }
}
