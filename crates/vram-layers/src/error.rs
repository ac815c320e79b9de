//! Errors of the engine and the layers.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use vram_device::DeviceError;
use vram_types::{ByteSize, Shape, SourceError, TypeError, WeightSource};

use crate::state::ForbiddenTransition;

/// What can go wrong when a model is put under management or run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A pass does not fit the budget, not even with one tile of weights at a time.
    BudgetTooSmall {
        /// The smallest budget in bytes that works for this pass.
        needed: u64,
        /// The budget in bytes.
        given: u64,
        /// Of `needed`: activations and scratch.
        workspace: u64,
        /// Of `needed`: the largest piece of weights that must be on the device at once.
        weights: u64,
        /// Of `needed`: memory that outlives passes, including the session that was asked for.
        session: u64,
    },
    /// A weight could not be read.
    Source(Arc<SourceError>),
    /// The device refused or failed.
    Device(Arc<DeviceError>),
    /// Another pass of the same engine is running.
    Busy,
    /// The model is offloaded; call `onload()` first.
    Offloaded,
    /// A state transition that the table does not allow.
    State(ForbiddenTransition),
    /// The checkpoint does not have what the model needs.
    Incompatible(Box<Incompatible>),
    /// The numbers of a weight need another tensor, and would be wrong without it.
    Companions {
        /// The weight's name in the checkpoint.
        weight: String,
        /// The tensor that was found.
        found: String,
        /// Why it cannot be applied.
        why: String,
    },
    /// No rule of the module map covers these parameters.
    Uncovered {
        /// Their names in the model.
        parameters: Vec<String>,
    },
    /// The model or its map is not what the engine can manage.
    Model(String),
    /// The device cannot do what was asked for.
    Unsupported(String),
    /// Tensors whose shapes do not fit together, or a layer that was not registered.
    Shape(String),
    /// The profile does not exist or is invalid.
    Profile {
        /// Its name or file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The pass was cancelled.
    Cancelled,
}

/// Everything that a checkpoint lacks for a model, collected in one error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Incompatible {
    /// The prefix that names in the checkpoint were assumed to have.
    pub prefix: String,
    /// Names of missing tensors.
    pub missing: Vec<String>,
    /// Tensors whose shape differs from the model's.
    pub mismatched: Vec<WrongShape>,
    /// A prefix under which the checkpoint has everything that is missing.
    pub found_under: Option<String>,
    /// A tensor that has the older name of a missing one: `LayerNorm.gamma` for `LayerNorm.weight`,
    /// `LayerNorm.beta` for `LayerNorm.bias`.
    pub older_name: Option<String>,
}

/// A tensor whose shape differs from its parameter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongShape {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape of the parameter.
    pub expected: Shape,
    /// Shape of the tensor.
    pub found: Shape,
}

impl Incompatible {
    pub(crate) fn new(prefix: &str) -> Incompatible {
        Incompatible { prefix: prefix.to_owned(), ..Incompatible::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.mismatched.is_empty()
    }

    /// Looks for the missing tensors under other names: all of them under another prefix, or norms under
    /// BERT's original names.
    pub(crate) fn find_names(&mut self, source: &dyn WeightSource) {
        let older = |name: &String| {
            let (stem, new) = name.rsplit_once('.').filter(|(stem, _)| stem.ends_with("LayerNorm"))?;
            let old = match new {
                "weight" => "gamma",
                "bias" => "beta",
                _ => return None,
            };
            Some(format!("{stem}.{old}")).filter(|name| source.locate(name).is_some())
        };
        self.older_name = self.missing.iter().find_map(older);
        self.find_prefix(source);
    }

    fn find_prefix(&mut self, source: &dyn WeightSource) {
        let bare: Vec<&str> = self.missing.iter().filter_map(|n| n.strip_prefix(&*self.prefix)).collect();
        let Some(first) = bare.first() else { return };
        let shorter = (!self.prefix.is_empty()).then_some("");
        let longer = source.names().filter_map(|name| name.strip_suffix(first));
        let mut tried: Vec<&str> = Vec::new();
        for prefix in shorter.into_iter().chain(longer) {
            if prefix == self.prefix
                || tried.contains(&prefix)
                || !(prefix.is_empty() || prefix.ends_with('.'))
            {
                continue;
            }
            if bare.iter().all(|name| source.locate(&format!("{prefix}{name}")).is_some()) {
                self.found_under = Some(prefix.to_owned());
                return;
            }
            tried.push(prefix);
        }
    }
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the checkpoint does not fit the model: ")?;
        if !self.missing.is_empty() {
            write!(
                f,
                "{} missing: {}",
                count(self.missing.len(), "tensor is", "tensors are"),
                some(&self.missing)
            )?;
        }
        for (i, WrongShape { name, expected, found }) in self.mismatched.iter().take(NAMES).enumerate() {
            let separator = if i > 0 || !self.missing.is_empty() { "; " } else { "" };
            write!(f, "{separator}{name:?} has shape {found} where the model needs {expected}")?;
        }
        if self.mismatched.len() > NAMES {
            write!(f, " and {} more have other shapes", self.mismatched.len() - NAMES)?;
        }
        if let Some(older) = &self.older_name {
            write!(
                f,
                "; it has the older name {older:?}: the conversion \"layer-norm-names\" changes such names"
            )?;
        }
        match &self.found_under {
            Some(prefix) if prefix.is_empty() => f.write_str("; all of them are there without a prefix"),
            Some(prefix) => write!(f, "; all of them are there under the prefix {prefix:?}"),
            None => Ok(()),
        }
    }
}

/// How many names a message lists before it only counts the rest.
const NAMES: usize = 5;

fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// The first few names, and how many more there are.
fn some(names: &[String]) -> String {
    let mut text = names.iter().take(NAMES).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES {
        text += &format!(" and {} more", names.len() - NAMES);
    }
    text
}

impl Error {
    /// Whether a larger budget, or more memory, may help.
    pub fn is_oom(&self) -> bool {
        match self {
            Error::BudgetTooSmall { .. } => true,
            Error::Device(e) => e.is_oom(),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BudgetTooSmall { needed, given, workspace, weights, session } => {
                write!(
                    f,
                    "the budget is too small: {given} bytes ({}) given, the smallest that works is {needed} bytes ({}): \
                     {workspace} for activations and scratch and {weights} for the largest piece of weights",
                    ByteSize(*given),
                    ByteSize(*needed)
                )?;
                if *session > 0 { write!(f, ", beside {session} for sessions") } else { Ok(()) }
            }
            Error::Source(e) => e.fmt(f),
            Error::Device(e) => e.fmt(f),
            Error::Busy => f.write_str("another pass of this engine is running; only one can run at a time"),
            Error::Offloaded => f.write_str("the model is offloaded; call onload() first"),
            Error::State(e) => e.fmt(f),
            Error::Incompatible(e) => e.fmt(f),
            Error::Companions { weight, found, why } => {
                write!(f, "{weight:?} cannot be used because of {found:?}: {why}")
            }
            Error::Uncovered { parameters } => write!(
                f,
                "no rule of the module map covers {}: {}",
                count(parameters.len(), "parameter", "parameters"),
                some(parameters)
            ),
            Error::Model(message) | Error::Unsupported(message) | Error::Shape(message) => {
                f.write_str(message)
            }
            Error::Profile { name, reason } => write!(f, "profile {name:?}: {reason}"),
            Error::Cancelled => f.write_str("the pass was cancelled"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Source(e) => Some(&**e),
            Error::Device(e) => Some(&**e),
            Error::State(e) => Some(e),
            _ => None,
        }
    }
}

impl From<SourceError> for Error {
    fn from(e: SourceError) -> Error {
        match e.kind() {
            vram_types::SourceErrorKind::Cancelled => Error::Cancelled,
            _ => Error::Source(Arc::new(e)),
        }
    }
}

impl From<DeviceError> for Error {
    fn from(e: DeviceError) -> Error {
        Error::Device(Arc::new(e))
    }
}

impl From<TypeError> for Error {
    fn from(e: TypeError) -> Error {
        Error::Device(Arc::new(DeviceError::Type(e)))
    }
}

impl From<ForbiddenTransition> for Error {
    fn from(e: ForbiddenTransition) -> Error {
        Error::State(e)
    }
}

#[cfg(test)]
mod tests {
    use vram_types::{DType, GeneratedSource, TensorMeta};

    use super::*;

    #[test]
    fn norms_under_their_older_names_are_hinted_at() {
        // The story: a checkpoint of 2018 was reported to lack fifty tensors, which it has under the names
        // gamma and beta.
        let meta = || TensorMeta::new(DType::F32, [2]).unwrap();
        let tensors = [("bert.LayerNorm.gamma", meta()), ("bert.LayerNorm.beta", meta()), ("bert.w", meta())];
        let source = GeneratedSource::new(tensors, |_, _, _| {}).unwrap();
        let mut missing = Incompatible::new("bert.");
        missing.missing = vec!["bert.other".to_owned(), "bert.LayerNorm.weight".to_owned()];
        missing.find_names(&source);
        assert_eq!(missing.older_name.as_deref(), Some("bert.LayerNorm.gamma"));
        let text = missing.to_string();
        assert!(
            text.contains("older name \"bert.LayerNorm.gamma\": the conversion \"layer-norm-names\""),
            "{text}"
        );
        missing.missing = vec!["bert.norm.weight".to_owned()];
        missing.find_names(&source);
        assert_eq!(missing.older_name, None);
    }
}
