//! The layers that most models are made of, written against [`Forward`](crate::Forward).

mod embedding;
mod linear;
mod norm;

use std::any::TypeId;

pub use embedding::Embedding;
pub use linear::Linear;
pub use norm::{LayerNorm, RmsNorm};

use crate::Split;

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
