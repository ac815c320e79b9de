//! Public crates must have the metadata that registries and users need.

use cargo_metadata::{DependencyKind, Metadata, Package};

use super::Findings;

pub(super) fn check(metadata: &Metadata) -> Findings {
    metadata.workspace_packages().into_iter().filter(|p| is_public(p)).flat_map(check_package).collect()
}

/// Whether the package can be published.
pub(crate) fn is_public(package: &Package) -> bool {
    package.publish.as_ref().is_none_or(|registries| !registries.is_empty())
}

fn check_package(package: &Package) -> Findings {
    let mut found = Findings::new();
    let mut need = |there: bool, what: &str| {
        if !there {
            found.push(format!("{} has no {what}", package.name));
        }
    };
    let description = package.description.as_deref().unwrap_or_default();
    need(description.split_whitespace().count() > 2, "useful description");
    need(package.license.is_some(), "license");
    need(package.readme.is_some(), "README.md");
    need(package.rust_version.is_some(), "rust-version");
    need(!package.keywords.is_empty(), "keywords");
    need(package.metadata.pointer("/docs/rs").is_some(), "[package.metadata.docs.rs]");
    for dependency in &package.dependencies {
        let source = dependency.source.as_ref().map(|s| s.repr.as_str()).unwrap_or_default();
        if source.starts_with("git+") {
            found.push(format!("{} depends on {} from git", package.name, dependency.name));
        }
        // Cargo drops dev-dependencies without a version when it publishes, and refuses others.
        let bare = dependency.path.is_some() && dependency.req.to_string() == "*";
        if bare && dependency.kind != DependencyKind::Development {
            found.push(format!("{} depends on {} by path without a version", package.name, dependency.name));
        }
    }
    found
}
