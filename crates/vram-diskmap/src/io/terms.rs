//! What is the same for all reads of a batch.

use vram_types::{ReadOptions, SourceError};

use super::aligned::Pool;
use super::mode::ReadMode;
use super::queue::{Permit, ReadQueue};

/// Below this many bytes a read goes through the page cache, which is asked for the neighbours as
/// well.
pub(crate) const LEAST_DIRECT_BYTES: usize = 128 << 10;

/// What is the same for all reads of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) mode: ReadMode,
    pub(crate) pool: &'a Pool,
    pub(crate) queue: &'a ReadQueue,
    pub(crate) options: &'a ReadOptions,
    /// Whether it is more than caches hold.
    pub(crate) streamed: bool,
}

impl Terms<'_> {
    /// Waits for its turn to have so many bytes on their way.
    pub(super) fn enter(&self, bytes: usize) -> Result<Option<Permit<'_>>, SourceError> {
        if bytes < LEAST_DIRECT_BYTES {
            return Ok(None);
        }
        self.queue.enter(bytes as u64, self.options).map(Some)
    }
}
