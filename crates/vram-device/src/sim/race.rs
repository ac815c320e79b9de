//! Detects accesses to the same bytes that are not ordered.
//!
//! A missing order is detected from what was requested, not from what happened to run first. An operation
//! comes after another if it is behind it in its queue, if its queue was [ordered](crate::Device::order)
//! after it, or if the host knew that it was done. All host threads count as one, because the device does not
//! see how they synchronise with each other.

use std::fmt;
use std::ops::Range;

use super::clock::Stamp;
use super::memory::Span;
use super::trace::OpKind;
use crate::Queue;

/// An operation, and the bytes of a buffer that it touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its queue.
    pub queue: Queue,
    /// Its position in the queue, counted from 1.
    pub operation: u64,
    /// What it is.
    pub kind: OpKind,
    /// Whether it writes them.
    pub writes: bool,
    /// The bytes.
    pub range: Range<u64>,
}

/// A use of the device that can give a wrong result, in this run or another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Two operations touch the same bytes, one of them writes, and the second is not ordered after the first.
    Race {
        /// The buffer, by its order of allocation from 1.
        buffer: u64,
        /// The operation that was issued first.
        first: Access,
        /// The operation that was issued second.
        second: Access,
    },
    /// Staging was written before the host knew that the copy out of it was done.
    StagingReused {
        /// The staging buffer, by its order of allocation from 1.
        staging: u64,
        /// The upload whose bytes were overwritten, by its position in the copy queue.
        upload: u64,
        /// The bytes that it copies.
        range: Range<u64>,
    },
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.writes { "writes" } else { "reads" };
        write!(f, "{:?} operation {} ({}) {verb} bytes ", self.queue, self.operation, self.kind)?;
        write!(f, "{}..{}", self.range.start, self.range.end)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Race { buffer, first, second } => {
                write!(f, "buffer {buffer}: {second}, and is not ordered after this: {first}")
            }
            Violation::StagingReused { staging, upload, range } => write!(
                f,
                "staging {staging}: bytes {}..{} were overwritten before upload {upload} was known to be done",
                range.start, range.end
            ),
        }
    }
}

/// Records a new access to some bytes, and returns the violations with earlier ones.
pub(super) fn enter(span: &Span, new: Access, stamp: Stamp, host: Stamp) -> Vec<Violation> {
    if span.range.is_empty() {
        return Vec::new();
    }
    let mut inside = span.memory.lock();
    let mut found = Vec::new();
    inside.accesses.retain(|old| {
        let ordered = stamp.covers(old.queue, old.operation);
        let together = old.range.start < new.range.end && new.range.start < old.range.end;
        if together && (old.writes || new.writes) && !ordered {
            let (first, second) = (old.clone(), new.clone());
            found.push(Violation::Race { buffer: span.memory.id, first, second });
        }
        let inside_new = new.range.start <= old.range.start && old.range.end <= new.range.end;
        // Anything ordered after the new access is then ordered after the old one as well.
        let replaced = ordered && inside_new && (new.writes || !old.writes);
        !replaced && !host.covers(old.queue, old.operation)
    });
    inside.accesses.push(new);
    found
}
