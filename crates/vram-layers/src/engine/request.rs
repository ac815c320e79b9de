//! What a pass asks for.

use vram_types::CancelToken;

use crate::spec::LayerId;

/// The requirements of a pass.
#[derive(Clone, Debug, Default)]
pub struct PassRequest {
    /// The most bytes of activations and scratch that it will hold at once.
    pub workspace: u64,
    /// Layers in the order in which the pass will use them, if that is known; by default the order of the
    /// previous pass, and for the first pass the order of registration. A wrong order costs speed, never
    /// correctness. A layer that is missing from a given trace is refused if the plan left no room for it.
    pub trace: Option<Vec<LayerId>>,
    /// Whether no pass follows, so that the readers do not read ahead for the next one.
    pub last: bool,
    /// Ends the pass early: the next lease gives [`Error::Cancelled`](crate::Error::Cancelled).
    pub cancel: CancelToken,
}
