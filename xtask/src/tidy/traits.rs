//! A public trait may have at most ten required methods.

use anyhow::{Context, Result};
use syn::{Item, ItemTrait, TraitItem, Visibility};

use super::Findings;
use super::allow::Exception;
use super::sources::Source;

const MOST_REQUIRED: usize = 10;

/// Checks the public traits of the crates (not those in tests). `exceptions` have the form
/// `crate::Trait`.
pub(super) fn check(sources: &[Source], exceptions: &[Exception]) -> Result<Findings> {
    let mut found = Findings::new();
    let mut needed = Vec::new();
    for source in sources {
        let Some((crate_name, _)) = source.path.strip_prefix("crates/").and_then(|p| p.split_once("/src/"))
        else {
            continue;
        };
        let file = syn::parse_file(&source.text).with_context(|| source.path.clone())?;
        for (name, required) in public_traits(&file.items) {
            let full = format!("{crate_name}::{name}");
            if required <= MOST_REQUIRED {
                continue;
            }
            if !exceptions.iter().any(|(e, _)| *e == full) {
                found.push(format!(
                    "{}: {name} has {required} required methods, at most {MOST_REQUIRED} are allowed; \
                     move conveniences to an extension trait",
                    source.path
                ));
            }
            needed.push(full);
        }
    }
    for (name, _) in exceptions.iter().filter(|(e, _)| !needed.iter().any(|n| n == e)) {
        found.push(format!("{name} no longer needs its exception"));
    }
    Ok(found)
}

fn public_traits(items: &[Item]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for item in items {
        match item {
            Item::Trait(t) if matches!(t.vis, Visibility::Public(_)) => {
                found.push((t.ident.to_string(), required_methods(t)));
            }
            Item::Mod(m) => found.extend(m.content.iter().flat_map(|(_, items)| public_traits(items))),
            _ => {}
        }
    }
    found
}

fn required_methods(item: &ItemTrait) -> usize {
    item.items.iter().filter(|i| matches!(i, TraitItem::Fn(f) if f.default.is_none())).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_trait(required: usize, exceptions: &[Exception], expected: usize) {
        let methods: String = (0..required).map(|i| format!("fn f{i}(&self);")).collect();
        let text = format!("pub trait T {{ {methods} fn more(&self) {{}} type A; }}");
        let source = Source { path: "crates/a/src/x.rs".to_owned(), text };
        let found = check(&[source], exceptions).unwrap();
        assert_eq!(found.len(), expected, "{found:?}");
    }

    #[test]
    fn counts_required_methods_only() {
        check_trait(10, &[], 0);
        check_trait(11, &[], 1);
        check_trait(11, &[("a::T", "reason")], 0);
        check_trait(10, &[("a::T", "reason")], 1);
    }
}
