//! Launches kernels, whole or in pieces.
//!
//! Operands larger than the adapter can bind are processed in pieces, by rows or by elements. A piece is
//! computed exactly as within the whole, so limits change no bit.

use std::sync::Arc;

use super::context::Context;
use super::pipeline::{Key, Pipeline, Pipelines};
use super::queue::{Dispatch, Window};
use crate::DeviceError;

/// Workgroups along one dimension that every adapter supports.
pub(super) const GROUPS: u64 = 65535;

/// Threads of a workgroup, in kernels over elements.
const GROUP: u64 = 64;

/// Issues kernels.
pub(super) struct Launcher {
    pub(super) context: Arc<Context>,
    // Its lock is never held together with another.
    pipelines: Pipelines,
}

impl Launcher {
    pub(super) fn new(context: &Arc<Context>) -> Launcher {
        Launcher { context: Arc::clone(context), pipelines: Pipelines::default() }
    }

    pub(super) fn pipeline(&self, key: Key) -> Result<Arc<Pipeline>, DeviceError> {
        self.pipelines.get(&self.context.driver.device, key)
    }

    pub(super) fn run(
        &self,
        key: Key,
        windows: &[Window<'_>],
        parameters: &[u32],
        groups: [u32; 3],
    ) -> Result<(), DeviceError> {
        let Pipeline { pipeline, layout } = &*self.pipeline(key)?;
        let dispatch = Dispatch { pipeline, layout, windows, parameters, groups };
        self.context.stream()?.dispatch(&self.context.driver, dispatch).map(drop)
    }
}

/// `0..n` in pieces: where each begins, and how long it is.
pub(super) fn pieces(n: u64, at_once: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = usize::try_from(at_once.max(1)).unwrap_or(usize::MAX);
    (0..n).step_by(step).map(move |first| (first, at_once.max(1).min(n - first)))
}

/// This many workgroups, in two dimensions if one is not enough.
pub(super) fn flat(groups: u64) -> [u32; 3] {
    let wide = groups.min(GROUPS);
    [wide as u32, groups.div_ceil(wide.max(1)) as u32, 1]
}

/// Workgroups with a thread for each word of `bytes` bytes that begin `skip` bytes into a window.
pub(super) fn over_words(skip: u32, bytes: u64) -> [u32; 3] {
    flat((u64::from(skip) % 4 + bytes).div_ceil(4).div_ceil(GROUP))
}
