//! The layers that most models are made of, written against [`Forward`](crate::Forward).

mod embedding;
mod linear;
mod norm;

use std::any::TypeId;

pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::{LayerNorm, RmsNorm};

use crate::spec::Split;

/// What a layer does with a matrix that may be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Decodes {
    /// Multiplies with it.
    Linear,
    /// Takes rows of it.
    Gather,
}

/// What a layer of this crate does with its matrix; `None` if it has none, and for other modules.
pub(crate) fn decodes(module: TypeId) -> Option<Decodes> {
    let layers = [(TypeId::of::<Linear>(), Decodes::Linear), (TypeId::of::<Embedding>(), Decodes::Gather)];
    layers.into_iter().find_map(|(layer, decodes)| (layer == module).then_some(decodes))
}

/// How each layer of this crate can be split.
pub(crate) fn splits() -> impl Iterator<Item = (TypeId, Split)> {
    [
        (TypeId::of::<Linear>(), Split::Rows),
        (TypeId::of::<Embedding>(), Split::Gather),
        (TypeId::of::<LayerNorm>(), Split::Whole),
        (TypeId::of::<RmsNorm>(), Split::Whole),
    ]
    .into_iter()
}
