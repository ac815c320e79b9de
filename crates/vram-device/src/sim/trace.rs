//! What was issued, and when it ran in virtual time.

use std::fmt;
use std::time::Duration;

use super::clock::Stamp;
use crate::Queue;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpKind {
    /// A copy to the device.
    Upload,
    /// A copy from the device.
    Download,
    /// A kernel of that name.
    Kernel(&'static str),
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OpKind::Upload => "upload",
            OpKind::Download => "download",
            OpKind::Kernel(name) => name,
        })
    }
}

/// A past operation, in virtual time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its queue.
    pub queue: Queue,
    /// What it is.
    pub kind: OpKind,
    /// Bytes that it copies, or reads and writes.
    pub bytes: u64,
    /// When it began.
    pub start: Duration,
    /// When it was done.
    pub end: Duration,
}

/// What is kept of every operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) kind: OpKind,
    pub(super) bytes: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// What came before it, including itself.
    pub(super) stamp: Stamp,
}

impl Record {
    pub(super) fn operation(&self, queue: Queue) -> Operation {
        let (start, end) = (Duration::from_nanos(self.start), Duration::from_nanos(self.end));
        Operation { queue, kind: self.kind, bytes: self.bytes, start, end }
    }
}
