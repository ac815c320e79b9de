//! Offset allocators: pure functions over numbers, without any memory.
//!
//! The address space is a list of segments laid end to end, one for each buffer of an arena. A range never
//! crosses the end of a segment.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::Range;

/// Hands out disjoint ranges of offsets.
pub trait OffsetAlloc: Send + Debug {
    /// Finds a free range of `bytes` whose offset within its segment is a multiple of `align` (a power of
    /// two). Returns its first byte, or `None` if there is no such range now. A request of zero bytes takes
    /// one.
    fn alloc(&mut self, bytes: u64, align: u64) -> Option<u64>;

    /// Frees the range that begins at `start`.
    fn free(&mut self, start: u64);
}

/// The bounds of each segment in the common address space.
fn bounds(segments: &[u64]) -> Vec<Range<u64>> {
    let mut start = 0u64;
    segments
        .iter()
        .map(|&bytes| {
            let range = start..start.saturating_add(bytes);
            start = range.end;
            range
        })
        .collect()
}

/// The first offset in `within` that is aligned relative to `base` and has room for `bytes`.
fn place(within: Range<u64>, base: u64, bytes: u64, align: u64) -> Option<u64> {
    let start = (within.start - base).checked_next_multiple_of(align)?.checked_add(base)?;
    (start.checked_add(bytes)? <= within.end).then_some(start)
}

/// Lowest free offset first. Placement depends only on the sequence of calls, so a [`Measure`] run and a real
/// one agree to the byte.
#[derive(Debug)]
pub struct FirstFit {
    segments: Vec<Range<u64>>,
    // Sorted by offset, disjoint.
    used: Vec<Range<u64>>,
}

impl FirstFit {
    /// An allocator over segments of the given sizes in bytes.
    pub fn new(segments: &[u64]) -> FirstFit {
        FirstFit { segments: bounds(segments), used: Vec::new() }
    }

    /// How many ranges are in use.
    pub fn live(&self) -> usize {
        self.used.len()
    }
}

impl OffsetAlloc for FirstFit {
    fn alloc(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let bytes = bytes.max(1);
        let mut next = 0; // index into `used`
        for segment in &self.segments {
            let mut free_from = segment.start;
            loop {
                let gap_end = match self.used.get(next) {
                    Some(range) if range.start < segment.end => range.start,
                    _ => segment.end,
                };
                if let Some(start) = place(free_from..gap_end, segment.start, bytes, align) {
                    self.used.insert(next, start..start + bytes);
                    return Some(start);
                }
                if gap_end == segment.end {
                    break;
                }
                free_from = self.used[next].end;
                next += 1;
            }
        }
        None
    }

    fn free(&mut self, start: u64) {
        if let Ok(index) = self.used.binary_search_by_key(&start, |range| range.start) {
            self.used.remove(index);
        }
    }
}

/// An unbounded [`FirstFit`] that remembers how far it reached: it finds out what a pass needs without
/// running it.
#[derive(Debug)]
pub struct Measure {
    inner: FirstFit,
    segment: u64,
    high_water: u64,
}

impl Measure {
    /// An empty one.
    pub fn new() -> Measure {
        Measure::within(u64::MAX)
    }

    /// The same over as many segments of `segment` bytes as it takes. Requests larger than a segment fail.
    pub fn within(segment: u64) -> Measure {
        Measure { inner: FirstFit::new(&[segment]), segment, high_water: 0 }
    }

    /// The fewest bytes with which the same calls would have succeeded: in one segment, or in segments of the
    /// measured size, of which the last may be smaller.
    pub fn high_water(&self) -> u64 {
        self.high_water
    }
}

impl Default for Measure {
    fn default() -> Measure {
        Measure::new()
    }
}

impl OffsetAlloc for Measure {
    fn alloc(&mut self, bytes: u64, align: u64) -> Option<u64> {
        if bytes > self.segment {
            return None;
        }
        let start = match self.inner.alloc(bytes, align) {
            Some(start) => start,
            None => {
                let from = self.inner.segments.last().map_or(0, |segment| segment.end);
                self.inner.segments.push(from..from.checked_add(self.segment)?);
                self.inner.alloc(bytes, align)?
            }
        };
        self.high_water = self.high_water.max(start + bytes.max(1));
        Some(start)
    }

    fn free(&mut self, start: u64) {
        self.inner.free(start);
    }
}

/// First in, first out: each range begins after the one before it, and wraps around from the last segment to
/// the first.
///
/// A range that is freed out of order is kept until those before it are free as well. An empty ring starts
/// again at its first byte, so anything that fits the largest segment fits an empty ring.
#[derive(Debug)]
pub struct RingAlloc {
    segments: Vec<Range<u64>>,
    // Oldest first; the space from the front's start to `head`, wrapping around, is taken.
    entries: VecDeque<Entry>,
    segment: usize,
    head: u64,
}

#[derive(Debug)]
struct Entry {
    segment: usize,
    start: u64,
    freed: bool,
}

impl RingAlloc {
    /// A ring over segments of the given sizes in bytes.
    pub fn new(segments: &[u64]) -> RingAlloc {
        RingAlloc { segments: bounds(segments), entries: VecDeque::new(), segment: 0, head: 0 }
    }

    fn take(&mut self, segment: usize, start: u64, bytes: u64) -> u64 {
        self.entries.push_back(Entry { segment, start, freed: false });
        self.segment = segment;
        self.head = start + bytes;
        start
    }
}

impl OffsetAlloc for RingAlloc {
    fn alloc(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let bytes = bytes.max(1);
        let Some(tail) = self.entries.front() else {
            let fit = |s: &Range<u64>| place(s.clone(), s.start, bytes, align);
            let (segment, start) = self.segments.iter().enumerate().find_map(|(i, s)| Some((i, fit(s)?)))?;
            return Some(self.take(segment, start, bytes));
        };
        let (tail_segment, tail_start) = (tail.segment, tail.start);
        let mut segment = self.segment;
        let mut from = self.head;
        // Whether the free space of the current segment ends at the tail rather than at the segment's end.
        let mut before_tail = segment == tail_segment && from <= tail_start;
        loop {
            let bounds = self.segments[segment].clone();
            let end = if before_tail { tail_start } else { bounds.end };
            if let Some(start) = place(from..end, bounds.start, bytes, align) {
                return Some(self.take(segment, start, bytes));
            }
            if before_tail {
                return None;
            }
            segment = (segment + 1) % self.segments.len();
            from = self.segments[segment].start;
            before_tail = segment == tail_segment;
        }
    }

    fn free(&mut self, start: u64) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.start == start && !e.freed) {
            entry.freed = true;
        }
        while self.entries.front().is_some_and(|e| e.freed) {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same ring with a map of every byte. A request goes to the first fitting offset at or after the
    /// head, wrapping around once, that touches no byte from the oldest live range's start up to the head.
    #[derive(Debug)]
    struct NaiveRing {
        taken: Vec<bool>,
        order: VecDeque<(u64, u64, bool)>,
    }

    impl NaiveRing {
        fn alloc(&mut self, start: u64, bytes: u64) {
            let span = start as usize..(start + bytes) as usize;
            assert!(self.taken[span.clone()].iter().all(|t| !t), "overlap at {span:?}");
            self.taken[span].fill(true);
            self.order.push_back((start, bytes, false));
        }
        fn free(&mut self, start: u64) {
            for entry in &mut self.order {
                if entry.0 == start {
                    entry.2 = true;
                    self.taken[entry.0 as usize..(entry.0 + entry.1) as usize].fill(false);
                }
            }
            self.order.retain(|e| !e.2);
        }
    }

    proptest! {
        #[test]
        fn ring_never_overlaps_nor_crosses_and_serves_in_turn(
            segments in prop::collection::vec(8u64..64, 1..4),
            ops in prop::collection::vec((0u64..40, 0u32..4, any::<u8>()), 1..200),
        ) {
            let total: u64 = segments.iter().sum();
            let largest = *segments.iter().max().unwrap();
            let mut ring = RingAlloc::new(&segments);
            let mut naive = NaiveRing { taken: vec![false; total as usize], order: VecDeque::new() };
            let ends: Vec<_> = bounds(&segments);
            for (bytes, align, choice) in ops {
                if choice % 3 == 0 && !naive.order.is_empty() {
                    let (start, ..) = naive.order[choice as usize % naive.order.len()];
                    ring.free(start);
                    naive.free(start);
                    continue;
                }
                let (bytes, align) = (bytes.max(1), 1 << align);
                match ring.alloc(bytes, align) {
                    Some(start) => {
                        let home = ends.iter().find(|s| s.contains(&start)).unwrap();
                        prop_assert!(start + bytes <= home.end);
                        prop_assert_eq!((start - home.start) % align, 0);
                        naive.alloc(start, bytes);
                    }
                    None => prop_assert!(!naive.order.is_empty() || bytes > largest),
                }
            }
            for (start, ..) in naive.order.clone() {
                ring.free(start);
            }
            prop_assert!(ring.alloc(largest, 1).is_some(), "an empty ring takes its largest segment");
        }

        #[test]
        fn measured_high_water_is_exactly_enough(
            segment in prop_oneof![Just(u64::MAX), 200u64..1000],
            ops in prop::collection::vec((1u64..200, any::<u8>()), 1..120),
        ) {
            let run = |alloc: &mut dyn OffsetAlloc| -> Option<Vec<u64>> {
                let mut live = Vec::new();
                let mut log = Vec::new();
                for &(bytes, choice) in &ops {
                    if choice % 3 == 0 && !live.is_empty() {
                        alloc.free(live.swap_remove(choice as usize % live.len()));
                    } else {
                        let start = alloc.alloc(bytes, 64)?;
                        live.push(start);
                        log.push(start);
                    }
                }
                Some(log)
            };
            let mut measure = Measure::within(segment);
            let log = run(&mut measure).unwrap();
            let need = measure.high_water();
            let of = |mut bytes: u64| {
                let mut segments = Vec::new();
                while bytes > 0 {
                    segments.push(bytes.min(segment));
                    bytes -= bytes.min(segment);
                }
                FirstFit::new(&segments)
            };
            prop_assert_eq!(run(&mut of(need)), Some(log));
            if need > 0 {
                prop_assert_eq!(run(&mut of(need - 1)), None);
            }
            prop_assert!(segment == u64::MAX || measure.alloc(segment + 1, 1).is_none());
        }
    }

    #[test]
    fn first_fit_reuses_the_lowest_hole() {
        let mut fit = FirstFit::new(&[100, 50]);
        assert_eq!(fit.alloc(60, 1), Some(0));
        assert_eq!(fit.alloc(50, 1), Some(100));
        assert_eq!(fit.alloc(41, 1), None);
        assert_eq!(fit.alloc(40, 1), Some(60));
        fit.free(0);
        assert_eq!(fit.alloc(10, 32), Some(0));
        assert_eq!(fit.alloc(10, 32), Some(32));
        assert_eq!(fit.live(), 4);
    }
}
