//! A conversion as data: its rules, in their order.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use vram_types::DType;

use super::rule::{Names, Rule};

/// What a tensor is to be called, by its name; `None` leaves it out.
pub(super) type NewName = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Rules that make a new state dict of an old one: other names, parts, wholes, shapes and dtypes.
///
/// Rules are applied in their order, each to what those before it have made; tensors that no rule
/// is for stay as they are. [`DiskMap::convert`](crate::DiskMap::convert) and
/// [`Converted::new`](crate::Converted::new) compile them against the headers of a checkpoint.
/// What comes of it is read lazily: only the bytes that are asked for, through a few MiB of memory
/// at most.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # let meta = vram_types::TensorMeta::new(vram_types::DType::F32, [6, 2])?;
/// # let mut writer = vram_diskmap::SafetensorsWriter::create(&path, [("model.0.qkv", meta)], &[])?;
/// # writer.write(&[1; 48])?;
/// # writer.finish()?;
/// use vram_diskmap::{Conversion, DiskMap, Names};
/// use vram_types::WeightSource;
///
/// let conversion = Conversion::new()
///     .rename(Names::prefix("model."), "encoder.")
///     .split("encoder.0.qkv", 0, ["encoder.0.q", "encoder.0.k", "encoder.0.v"])
///     .transpose("encoder.0.v", [1, 0]);
/// let converted = DiskMap::open(&path)?.convert(&conversion)?;
///
/// assert_eq!(converted.get("encoder.0.k")?.meta().shape().dims(), [2, 2]);
/// // A part is read in place; what is transposed is put together as it is read.
/// assert_eq!(converted.locate("encoder.0.k").unwrap().ranges.len(), 1);
/// assert!(converted.locate("encoder.0.v").unwrap().ranges.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Conversion {
    pub(super) steps: Vec<Step>,
    /// The file that the rules are from.
    pub(super) path: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) action: Action,
    /// Where the rule begins in its file, counted from 1.
    pub(super) line: Option<usize>,
}

#[derive(Clone)]
pub(super) enum Action {
    Rule(Rule),
    Function(Arc<NewName>),
}

impl Action {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Action::Rule(rule) => rule.name(),
            Action::Function(_) => "rename_with",
        }
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Rule(rule) => rule.fmt(f),
            Action::Function(_) => f.write_str("a function"),
        }
    }
}

impl Conversion {
    /// Without rules: everything stays as it is.
    pub fn new() -> Conversion {
        Conversion::default()
    }

    /// One more rule, after those that there are.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Conversion {
        self.steps.push(Step { action: Action::Rule(rule), line: None });
        self
    }

    /// Other names for `tensors`: the part of each name that they mean becomes `to`. See [`Rule`]
    /// for templates.
    #[must_use]
    pub fn rename(self, tensors: impl Into<Names>, to: impl Into<String>) -> Conversion {
        self.rule(Rule::Rename { tensors: tensors.into(), to: to.into() })
    }

    /// Other names one by one, all at once, so that names can be swapped.
    #[must_use]
    pub fn rename_map<F: Into<String>, T: Into<String>>(
        self,
        names: impl IntoIterator<Item = (F, T)>,
    ) -> Conversion {
        self.rule(Rule::RenameMap(names.into_iter().map(|(from, to)| (from.into(), to.into())).collect()))
    }

    /// Other names by a function; tensors for which it gives `None` are left out.
    #[must_use]
    pub fn rename_with(
        mut self,
        name: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Conversion {
        self.steps.push(Step { action: Action::Function(Arc::new(name)), line: None });
        self
    }

    /// The same tensors once more, under other names.
    #[must_use]
    pub fn copy(self, tensors: impl Into<Names>, to: impl Into<String>) -> Conversion {
        self.rule(Rule::Copy { tensors: tensors.into(), to: to.into() })
    }

    /// Leaves tensors out.
    #[must_use]
    pub fn drop(self, tensors: impl Into<Names>) -> Conversion {
        self.rule(Rule::Drop { tensors: tensors.into() })
    }

    /// Leaves all others out.
    #[must_use]
    pub fn keep(self, tensors: impl Into<Names>) -> Conversion {
        self.rule(Rule::Keep { tensors: tensors.into() })
    }

    /// Cuts along extent `dim` into equal parts of these names. [`Rule::Split`] has parts of other
    /// sizes.
    #[must_use]
    pub fn split<T: Into<String>>(
        self,
        tensors: impl Into<Names>,
        dim: usize,
        into: impl IntoIterator<Item = T>,
    ) -> Conversion {
        let into = into.into_iter().map(Into::into).collect();
        self.rule(Rule::Split { tensors: tensors.into(), dim, into, sizes: None })
    }

    /// Puts tensors one after the other along extent `dim`: for each of `tensors`, the `parts`
    /// whose names follow from its own.
    #[must_use]
    pub fn concat<T: Into<String>>(
        self,
        tensors: impl Into<Names>,
        dim: usize,
        parts: impl IntoIterator<Item = T>,
        into: impl Into<String>,
    ) -> Conversion {
        let parts = parts.into_iter().map(Into::into).collect();
        self.rule(Rule::Concat { tensors: tensors.into(), dim, parts, into: into.into() })
    }

    /// Puts the extents in another order: new extent `i` is the old one `axes[i]`.
    #[must_use]
    pub fn transpose(self, tensors: impl Into<Names>, axes: impl IntoIterator<Item = usize>) -> Conversion {
        self.rule(Rule::Transpose { tensors: tensors.into(), axes: Some(axes.into_iter().collect()) })
    }

    /// The same elements in the same order under another shape; one extent may be -1 and follows
    /// from the others.
    #[must_use]
    pub fn reshape(self, tensors: impl Into<Names>, shape: impl IntoIterator<Item = i64>) -> Conversion {
        self.rule(Rule::Reshape { tensors: tensors.into(), shape: shape.into_iter().collect() })
    }

    /// Indices `range` of extent `dim`.
    #[must_use]
    pub fn slice(self, tensors: impl Into<Names>, dim: usize, range: Range<usize>) -> Conversion {
        let (start, end) = (range.start, Some(range.end));
        self.rule(Rule::Slice { tensors: tensors.into(), dim, start, end })
    }

    /// Another dtype; see [`Rule::Cast`].
    #[must_use]
    pub fn cast(self, tensors: impl Into<Names>, dtype: DType) -> Conversion {
        self.rule(Rule::Cast { tensors: tensors.into(), dtype })
    }

    /// A conversion that comes with this crate, by its name:
    ///
    /// - `layer-norm-names`: `LayerNorm.gamma` and `LayerNorm.beta`, as BERT's first checkpoints
    ///   have them, become `LayerNorm.weight` and `LayerNorm.bias`.
    pub fn shipped(name: &str) -> Option<Conversion> {
        let layer_norm = |name: &str| {
            let (stem, old) = name.rsplit_once('.')?;
            let new = match old {
                "gamma" => "weight",
                "beta" => "bias",
                _ => return None,
            };
            stem.ends_with("LayerNorm").then(|| format!("{stem}.{new}"))
        };
        match name {
            "layer-norm-names" => Some(
                Conversion::new().rename_with(move |name| Some(layer_norm(name).unwrap_or(name.to_owned()))),
            ),
            _ => None,
        }
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}
