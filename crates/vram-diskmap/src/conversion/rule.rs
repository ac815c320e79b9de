//! Rules as plain data.

use std::collections::BTreeMap;

use vram_types::DType;

/// Which tensors a rule is for, and which part of their names it means: templates replace that
/// part.
///
/// In TOML: `"a.weight"`, `["a.weight", "a.bias"]`, `{ prefix = "model." }`,
/// `{ regex = '\.qkv\.' }`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Names {
    /// The tensor of that name; the whole name is meant.
    Exact(String),
    /// The tensors of these names; the whole names are meant.
    List(Vec<String>),
    /// All tensors whose name begins so; that beginning is meant. An empty one is that of every
    /// name.
    Prefix(String),
    /// All tensors in whose name the expression is found, in the syntax of the crate `regex-lite`;
    /// the first place where it is found is meant. Its groups are `$1` or `${name}` in templates.
    #[cfg(feature = "regex")]
    Regex(String),
}

impl Names {
    /// Every tensor.
    pub fn all() -> Names {
        Names::Prefix(String::new())
    }

    /// All tensors whose name begins so.
    pub fn prefix(prefix: impl Into<String>) -> Names {
        Names::Prefix(prefix.into())
    }

    /// All tensors in whose name the expression is found.
    #[cfg(feature = "regex")]
    pub fn regex(expression: impl Into<String>) -> Names {
        Names::Regex(expression.into())
    }
}

impl From<&str> for Names {
    fn from(name: &str) -> Names {
        Names::Exact(name.to_owned())
    }
}

impl From<String> for Names {
    fn from(name: String) -> Names {
        Names::Exact(name)
    }
}

impl<const N: usize> From<[&str; N]> for Names {
    fn from(names: [&str; N]) -> Names {
        Names::List(names.map(str::to_owned).to_vec())
    }
}

/// One step of a [`Conversion`](crate::Conversion): from all tensors to all tensors.
///
/// `to`, `into` and `parts` are templates for the part of the name that `tensors` means: `$0` is
/// that part as it was, `$1` and `${name}` are groups of a regular expression, `$$` is a dollar.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "toml", derive(serde::Deserialize))]
#[cfg_attr(feature = "toml", serde(rename_all = "snake_case", deny_unknown_fields))]
#[non_exhaustive]
pub enum Rule {
    /// Other names.
    Rename {
        /// Which.
        tensors: Names,
        /// What the names become.
        to: String,
    },
    /// Other names, one by one and all at once, so that names can be swapped.
    RenameMap(BTreeMap<String, String>),
    /// The same tensors once more under other names.
    Copy {
        /// Which.
        tensors: Names,
        /// The further names.
        to: String,
    },
    /// Leaves tensors out.
    Drop {
        /// Which.
        tensors: Names,
    },
    /// Leaves all others out.
    Keep {
        /// Which.
        tensors: Names,
    },
    /// Cuts a tensor into several along one extent.
    Split {
        /// Which.
        tensors: Names,
        /// The extent, counted from the outermost.
        #[cfg_attr(feature = "toml", serde(default))]
        dim: usize,
        /// The names of the parts, in their order.
        into: Vec<String>,
        /// How much of the extent each part gets; equal parts if not given.
        #[cfg_attr(feature = "toml", serde(default))]
        sizes: Option<Vec<usize>>,
    },
    /// Puts several tensors one after the other along one extent.
    Concat {
        /// One of the parts of each new tensor, from whose name those of all parts follow.
        tensors: Names,
        /// The extent, counted from the outermost.
        #[cfg_attr(feature = "toml", serde(default))]
        dim: usize,
        /// The names of the parts, in their order.
        parts: Vec<String>,
        /// The name of the whole.
        into: String,
    },
    /// Puts the extents in another order.
    Transpose {
        /// Which.
        tensors: Names,
        /// For each new extent, which of the old ones it is; all of them reversed if not given.
        #[cfg_attr(feature = "toml", serde(default))]
        axes: Option<Vec<usize>>,
    },
    /// The same elements in the same order under another shape.
    Reshape {
        /// Which.
        tensors: Names,
        /// The extents; one of them may be -1 and follows from the others.
        shape: Vec<i64>,
    },
    /// A part of a tensor along one extent.
    Slice {
        /// Which.
        tensors: Names,
        /// The extent, counted from the outermost.
        #[cfg_attr(feature = "toml", serde(default))]
        dim: usize,
        /// First index.
        #[cfg_attr(feature = "toml", serde(default))]
        start: usize,
        /// The index after the last; the end if not given.
        #[cfg_attr(feature = "toml", serde(default))]
        end: Option<usize>,
    },
    /// Another dtype, rounded as PyTorch does. Of tensors that a pattern matches the
    /// floating-point ones are cast; one that is named must have a cast.
    Cast {
        /// Which.
        tensors: Names,
        /// What they become.
        dtype: DType,
    },
}

impl Rule {
    /// What it is called in TOML.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Rename { .. } => "rename",
            Rule::RenameMap(_) => "rename_map",
            Rule::Copy { .. } => "copy",
            Rule::Drop { .. } => "drop",
            Rule::Keep { .. } => "keep",
            Rule::Split { .. } => "split",
            Rule::Concat { .. } => "concat",
            Rule::Transpose { .. } => "transpose",
            Rule::Reshape { .. } => "reshape",
            Rule::Slice { .. } => "slice",
            Rule::Cast { .. } => "cast",
        }
    }
}
