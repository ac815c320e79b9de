//! What a pass asks for.

use vram_types::CancelToken;

use crate::spec::LayerId;

/// What a pass needs to be admitted.
#[derive(Clone, Debug, Default)]
pub struct PassRequest {
    /// Bytes of activations and scratch that it will hold at once, at the most.
    pub workspace: u64,
    /// Layers in the order in which the pass will use them, if that is known; else as in the pass before, and in the
    /// first pass as they were registered. A wrong order costs speed, never correctness; a layer that a given trace
    /// has not at all is refused where the plan left no room for it.
    pub trace: Option<Vec<LayerId>>,
    /// Whether nothing follows: then the readers do not run around the end of the pass into the next one.
    pub last: bool,
    /// Ends the pass early, with [`Error::Cancelled`](crate::Error::Cancelled) from the next lease.
    pub cancel: CancelToken,
}
