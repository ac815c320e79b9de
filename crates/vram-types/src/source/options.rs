//! How a read is performed, and what ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{SourceError, SourceErrorKind};

/// Options of a read; by default those of a blocking read that cannot be cancelled.
///
/// ```
/// use vram_types::{CancelToken, Priority, ReadOptions};
///
/// let cancel = CancelToken::new();
/// let options = ReadOptions::default().with_priority(Priority::ReadAhead).with_cancel(&cancel);
/// assert!(options.check().is_ok());
/// cancel.cancel();
/// assert!(options.check().is_err());
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReadOptions {
    /// How urgent it is. [`Urgent`](Priority::Urgent) unless said otherwise: the caller waits for
    /// it.
    pub priority: Priority,
    /// What ends it early; `None` if nothing does.
    pub cancel: Option<CancelToken>,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions::BLOCKING
    }
}

impl ReadOptions {
    /// Options for a blocking read that cannot be cancelled; the default.
    pub const BLOCKING: ReadOptions = ReadOptions { priority: Priority::Urgent, cancel: None };

    /// Sets how urgent the read is.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> ReadOptions {
        self.priority = priority;
        self
    }

    /// Ends the read early once the token is cancelled.
    #[must_use]
    pub fn with_cancel(mut self, cancel: &CancelToken) -> ReadOptions {
        self.cancel = Some(cancel.clone());
        self
    }

    /// An error if the read was cancelled.
    ///
    /// # Errors
    /// [`SourceErrorKind::Cancelled`].
    pub fn check(&self) -> Result<(), SourceError> {
        match &self.cancel {
            Some(cancel) => cancel.check(),
            None => Ok(()),
        }
    }
}

/// How urgent a read is. A source with a queue serves higher priorities first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Nobody waits for it yet.
    #[default]
    ReadAhead,
    /// The computing thread waits for it.
    Urgent,
}

/// Tells readers to stop. Clones share one flag; it is never reset.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that has not been cancelled.
    pub fn new() -> CancelToken {
        CancelToken::default()
    }

    /// Asks everybody who holds a clone to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`cancel`](CancelToken::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// An error if cancelled.
    ///
    /// # Errors
    /// [`SourceErrorKind::Cancelled`].
    pub fn check(&self) -> Result<(), SourceError> {
        if self.is_cancelled() {
            return Err(SourceError::new(SourceErrorKind::Cancelled, "the read was cancelled"));
        }
        Ok(())
    }
}
