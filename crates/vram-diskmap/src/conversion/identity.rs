//! Where a converted tensor lies, and which of them are the same stored bytes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use vram_types::{FileId, FileRange, Located, StorageId, TensorMeta};

use super::expr::{Expr, Node};
use super::layout;

/// A tensor of the source.
pub(super) struct SourceTensor {
    pub(super) name: String,
    pub(super) located: Located,
}

/// Bytes of one tensor of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) source: u32,
    pub(super) bytes: Range<u64>,
}

/// The bytes of a tensor as runs of the sources', one after the other; `None` if they are put
/// together otherwise.
pub(super) fn runs(expr: &Expr, bytes: Range<u64>) -> Option<SmallVec<[Run; 1]>> {
    match &expr.node {
        Node::Source(source) => Some(smallvec![Run { source: *source, bytes }]),
        Node::Cast(_) => None,
        Node::View { of, first, steps } => {
            if *steps != layout::dense(expr.shape()) {
                return None;
            }
            let before = of.bytes_of(*first);
            runs(of, before + bytes.start..before + bytes.end)
        }
        Node::Concat { dim, parts } => {
            if expr.shape()[..*dim].iter().any(|&extent| extent != 1) {
                return None;
            }
            let mut all = SmallVec::new();
            let mut before = 0;
            for part in parts {
                let end = before + part.meta.bytes();
                let inside = bytes.start.clamp(before, end) - before..bytes.end.clamp(before, end) - before;
                if inside.start < inside.end {
                    all.extend(runs(part, inside)?);
                }
                before = end;
            }
            Some(all)
        }
    }
}

/// Gives tensors their places and identities.
pub(super) struct Identities<'a> {
    sources: &'a [SourceTensor],
    /// Identities that tensors of the source have.
    taken: HashSet<StorageId>,
    /// Those of tensors that are not simply bytes of a file.
    computed: HashSet<StorageId>,
    /// Identities of what is put together here.
    made: HashMap<Arc<Expr>, StorageId>,
    next: u64,
}

impl<'a> Identities<'a> {
    pub(super) fn new(sources: &'a [SourceTensor]) -> Identities<'a> {
        let of = |tensor: &SourceTensor| tensor.located.storage;
        let taken = sources.iter().map(of).collect();
        let computed = sources.iter().filter(|t| t.located.ranges.is_empty()).map(of).collect();
        Identities { sources, taken, computed, made: HashMap::new(), next: u64::MAX }
    }

    /// For each source, the first that is the same stored bytes: tied ones stay tied whatever is
    /// made of them.
    pub(super) fn firsts(sources: &'a [SourceTensor]) -> Vec<u32> {
        let mut first: HashMap<(StorageId, &TensorMeta), u32> = HashMap::new();
        let of = |(number, tensor): (u32, &'a SourceTensor)| {
            *first.entry((tensor.located.storage, &tensor.located.meta)).or_insert(number)
        };
        (0..).zip(sources).map(of).collect()
    }

    /// Where a tensor lies.
    pub(super) fn locate(&mut self, expr: &Arc<Expr>) -> Located {
        let meta = expr.meta.clone();
        let runs = runs(expr, 0..meta.bytes());
        if let Some([Run { source, bytes }]) = runs.as_deref()
            && let Some(SourceTensor { located, .. }) = self.sources.get(*source as usize)
            && *bytes == (0..located.meta.bytes())
        {
            // Rows of encoded elements are whole; under another innermost extent they are not
            // those of the tensor.
            let encoded =
                located.encoded.clone().filter(|_| meta.shape().last() == located.meta.shape().last());
            return Located::new(meta, located.storage, located.ranges.clone()).with_encoded(encoded);
        }
        let ranges = runs.and_then(|runs| self.ranges(&runs)).unwrap_or_default();
        if let [range] = ranges.as_slice() {
            let storage = StorageId { file: range.file, offset: range.offset };
            if !self.computed.contains(&storage) {
                return Located::new(meta, storage, ranges);
            }
        }
        let storage = self.made(expr);
        Located::new(meta, storage, ranges)
    }

    /// Where runs lie in files; `None` if a source is not bytes of files.
    fn ranges(&self, runs: &[Run]) -> Option<SmallVec<[FileRange; 1]>> {
        let mut all: SmallVec<[FileRange; 1]> = SmallVec::new();
        for Run { source, bytes } in runs {
            let mut before = 0;
            let ranges = &self.sources.get(*source as usize)?.located.ranges;
            if ranges.is_empty() {
                return None;
            }
            for range in ranges {
                let end = before + range.bytes;
                let (start, stop) = (bytes.start.clamp(before, end), bytes.end.clamp(before, end));
                if start < stop {
                    let part = FileRange {
                        file: range.file,
                        offset: range.offset + (start - before),
                        bytes: stop - start,
                    };
                    match all.last_mut() {
                        Some(last) if last.file == part.file && last.end() == part.offset => {
                            last.bytes += part.bytes;
                        }
                        _ => all.push(part),
                    }
                }
                before = end;
            }
        }
        Some(all)
    }

    /// An identity that nothing else has, the same for equal tensors: offsets from the end of all
    /// that there can be.
    fn made(&mut self, expr: &Arc<Expr>) -> StorageId {
        if let Some(&storage) = self.made.get(expr) {
            return storage;
        }
        let (source, _) = expr.place();
        let file = self.sources.get(source as usize).map_or(FileId(0), |t| t.located.storage.file);
        let mut storage = StorageId { file, offset: self.next };
        while self.taken.contains(&storage) {
            storage.offset -= 1;
        }
        self.next = storage.offset - 1;
        self.made.insert(Arc::clone(expr), storage);
        storage
    }
}
