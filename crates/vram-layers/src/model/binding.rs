//! Maps the parameters of a model to tensors of the engine.

use std::collections::HashMap;

use vram_alloc::ParamId;
use vram_types::Encoding;

use crate::spec::LayerId;
use crate::spec::Split;

/// Where a parameter's bytes are: the `index`-th tensor of a layer of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) layer: LayerId,
    pub(crate) index: usize,
    pub(crate) split: Split,
    /// Its kept encoding.
    pub(crate) encoding: Encoding,
}

pub(crate) type Bindings = HashMap<ParamId, Binding>;
