//! From many requests to few reads: neighbours are read together, and what is asked for twice is
//! read once.

use std::cmp::Reverse;
use std::ops::Range;

use vram_types::FileId;

use super::terms::LEAST_DIRECT_BYTES;

/// Neighbours with gaps up to this many bytes are read together: that much comes while a disk
/// finds another place.
const MOST_GAP_BYTES: u64 = 32 << 10;
/// Bytes of such a joint read at most, gaps included. It fits a bounce buffer.
pub(crate) const MOST_JOINT_BYTES: u64 = (1 << 20) - (8 << 10);

/// What one request asks of which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl Span {
    fn end(&self) -> u64 {
        self.offset + self.bytes
    }

    fn contains(&self, other: &Span) -> bool {
        self.file == other.file && self.offset <= other.offset && other.end() <= self.end()
    }
}

/// Bytes of a request that are bytes of another one, from byte `at` of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) from: usize,
    pub(crate) at: u64,
    pub(crate) to: usize,
}

/// How a batch is read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Numbers of requests, in the order of their bytes.
    pub(crate) order: Vec<usize>,
    /// Parts of `order` that are read together.
    pub(crate) groups: Vec<Range<usize>>,
    /// What is copied once all is read.
    pub(crate) copies: Vec<Copied>,
}

/// Puts requests together. Empty ones are in no group.
pub(crate) fn join(spans: &[Span]) -> Joined {
    let mut sorted: Vec<usize> = (0..spans.len()).filter(|&i| spans[i].bytes > 0).collect();
    sorted.sort_unstable_by_key(|&i| (spans[i].file, spans[i].offset, Reverse(spans[i].bytes), i));
    let mut joined = Joined::default();
    // The last group, and of all before it the request that reaches furthest.
    let mut group: Option<Group> = None;
    let mut furthest: Option<usize> = None;
    for i in sorted {
        let span = spans[i];
        if let Some(from) = furthest.filter(|&f| spans[f].contains(&span)) {
            joined.copies.push(Copied { from, at: span.offset - spans[from].offset, to: i });
            continue;
        }
        if furthest.is_none_or(|f| spans[f].file != span.file || spans[f].end() < span.end()) {
            furthest = Some(i);
        }
        match (&mut group, joined.groups.last_mut()) {
            (Some(group), Some(last)) if group.takes(&span) => {
                group.0.bytes = span.end().max(group.0.end()) - group.0.offset;
                last.end += 1;
            }
            _ => {
                let at = joined.order.len();
                joined.groups.push(at..at + 1);
                group = Some(Group(span, is_short(&span)));
            }
        }
        joined.order.push(i);
    }
    joined
}

/// What is read together, and whether all of it is short: only short requests gain by that.
struct Group(Span, bool);

impl Group {
    fn takes(&self, next: &Span) -> bool {
        let Group(all, short) = self;
        let near = next.offset <= all.end().saturating_add(MOST_GAP_BYTES);
        let joint = next.end().max(all.end()) - all.offset;
        all.file == next.file && *short && is_short(next) && near && joint <= MOST_JOINT_BYTES
    }
}

fn is_short(span: &Span) -> bool {
    span.bytes < LEAST_DIRECT_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spans: &[(u32, u64, u64)], groups: &[&[usize]], copies: &[(usize, u64, usize)]) {
        let spans: Vec<Span> =
            spans.iter().map(|&(file, offset, bytes)| Span { file: FileId(file), offset, bytes }).collect();
        let joined = join(&spans);
        let found: Vec<&[usize]> = joined.groups.iter().map(|g| &joined.order[g.clone()]).collect();
        assert_eq!(found, groups, "{spans:?}");
        let found: Vec<_> = joined.copies.iter().map(|c| (c.from, c.at, c.to)).collect();
        assert_eq!(found, copies, "{spans:?}");
    }

    #[test]
    fn neighbours_of_one_file_are_read_together() {
        check(&[], &[], &[]);
        check(&[(0, 5, 0)], &[], &[]);
        check(&[(0, 5000, 100), (0, 0, 100), (0, 100, 50)], &[&[1, 2, 0]], &[]);
        check(&[(0, 0, 100), (1, 100, 50)], &[&[0], &[1]], &[]);
        check(&[(0, 0, 100), (0, 100 + MOST_GAP_BYTES, 1)], &[&[0, 1]], &[]);
        check(&[(0, 0, 100), (0, 101 + MOST_GAP_BYTES, 1)], &[&[0], &[1]], &[]);
        check(&[(0, 0, 60), (0, 30, 60)], &[&[0, 1]], &[]);
    }

    #[test]
    fn long_requests_go_straight_to_their_place() {
        let long = LEAST_DIRECT_BYTES as u64;
        check(&[(0, 0, long), (0, long, long), (0, 2 * long, 8)], &[&[0], &[1], &[2]], &[]);
        check(&[(0, 0, 8), (0, 8, long)], &[&[0], &[1]], &[]);
        // Many short ones make as many reads as a bounce buffer needs.
        let many: Vec<_> = (0..40).map(|i| (0, i * (long - 1), long - 1)).collect();
        let spans: Vec<Span> =
            many.iter().map(|&(f, offset, bytes)| Span { file: FileId(f), offset, bytes }).collect();
        let joined = join(&spans);
        assert_eq!((joined.groups.len(), joined.order.len()), (6, 40));
    }

    #[test]
    fn what_is_asked_for_twice_is_read_once() {
        let long = LEAST_DIRECT_BYTES as u64;
        check(&[(0, 0, 100), (0, 0, 100)], &[&[0]], &[(0, 0, 1)]);
        check(&[(0, 40, 60), (0, 0, 4 * long), (0, long, long)], &[&[1]], &[(1, 40, 0), (1, long, 2)]);
        // Another file between, and one that only begins inside.
        check(&[(0, 0, 10), (1, 0, 10), (0, 0, 10)], &[&[0], &[1]], &[(0, 0, 2)]);
        check(&[(0, 0, 2 * long), (0, long, 2 * long), (0, long, long)], &[&[0], &[1]], &[(1, 0, 2)]);
    }

    #[test]
    fn every_byte_is_read_or_copied() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |most: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % most
        };
        for _ in 0..300 {
            let most = 1 + next(400_000);
            let spans: Vec<Span> = (0..next(40))
                .map(|_| Span { file: FileId(next(2) as u32), offset: next(3_000_000), bytes: next(most) })
                .collect();
            let joined = join(&spans);
            let mut seen = vec![0; spans.len()];
            for group in &joined.groups {
                let all: Vec<&Span> = joined.order[group.clone()].iter().map(|&i| &spans[i]).collect();
                let end = all.iter().map(|s| s.end()).max().unwrap();
                assert!(all.len() == 1 || end - all[0].offset <= MOST_JOINT_BYTES);
                assert!(all.iter().all(|s| s.file == all[0].file && s.offset >= all[0].offset));
            }
            joined.order.iter().for_each(|&i| seen[i] += 1);
            for copy in &joined.copies {
                let (from, to) = (&spans[copy.from], &spans[copy.to]);
                assert!(joined.order.contains(&copy.from), "copies come from what is read");
                assert_eq!((from.file, from.offset + copy.at), (to.file, to.offset));
                assert!(copy.at + to.bytes <= from.bytes);
                seen[copy.to] += 1;
            }
            assert!(spans.iter().zip(&seen).all(|(s, &n)| n == u32::from(s.bytes > 0)));
        }
    }
}
