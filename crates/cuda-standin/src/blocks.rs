//! Allocations of device memory and pinned host memory, and the order of accesses to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::clock::Clock;
use crate::space::Place;

/// The kind of memory of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    Pinned,
}

/// A live allocation.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    /// Device of the context that allocated it.
    pub(crate) device: usize,
    /// First address, as the owner sees it.
    pub(crate) address: u64,
    pub(crate) bytes: usize,
    /// The place of device memory.
    pub(crate) place: Option<Place>,
    accesses: Vec<Access>,
}

/// A part of an allocation.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// Number of the allocation.
    pub(crate) block: u64,
    /// First address, as the owner sees it.
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

/// A position in a stream: its lane, and the position in that lane, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) lane: usize,
    pub(crate) at: u64,
}

/// Queued work that accesses bytes of an allocation.
#[derive(Clone, Debug)]
struct Access {
    position: Position,
    what: Arc<str>,
    writes: bool,
    /// Bytes from the start of the allocation.
    range: Range<u64>,
}

/// All allocations by number. Numbers are not reused.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    blocks: BTreeMap<u64, Block>,
    device: BTreeMap<u64, u64>,
    pinned: BTreeMap<u64, u64>,
    freed: HashMap<u64, u64>,
    last: u64,
}

impl Blocks {
    /// Adds an allocation and returns its number.
    pub(crate) fn enter(
        &mut self,
        kind: Kind,
        device: usize,
        address: u64,
        bytes: usize,
        place: Option<Place>,
    ) -> u64 {
        self.last += 1;
        self.freed.remove(&address);
        let number = self.last;
        self.by_address(kind).insert(address, number);
        let block = Block { kind, device, address, bytes, place, accesses: Vec::new() };
        self.blocks.insert(self.last, block);
        self.last
    }

    /// Removes an allocation.
    pub(crate) fn leave(&mut self, number: u64) -> Option<Block> {
        let block = self.blocks.remove(&number)?;
        self.by_address(block.kind).remove(&block.address);
        self.freed.insert(block.address, number);
        Some(block)
    }

    /// The number of the allocation that starts at an address.
    pub(crate) fn at(&self, kind: Kind, address: u64) -> Option<u64> {
        let map = if kind == Kind::Device { &self.device } else { &self.pinned };
        map.get(&address).copied()
    }

    /// The freed allocation that started at this address.
    pub(crate) fn freed_at(&self, address: u64) -> Option<u64> {
        self.freed.get(&address).copied()
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Block> {
        self.blocks.get(&number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&u64, &Block)> {
        self.blocks.iter()
    }

    /// The allocation that contains an address or ends at it.
    pub(crate) fn around(&self, kind: Kind, address: u64) -> Option<(u64, &Block)> {
        let map = if kind == Kind::Device { &self.device } else { &self.pinned };
        let (_, number) = map.range(..=address).next_back()?;
        let block = self.blocks.get(number)?;
        (address <= block.address + block.bytes as u64).then_some((*number, block))
    }

    /// The `bytes` bytes from an address on, if they are in one allocation; `None` if the address
    /// is in no allocation.
    ///
    /// # Errors
    ///
    /// A description, if they start in an allocation and end outside it.
    pub(crate) fn span(&self, kind: Kind, address: u64, bytes: usize) -> Result<Option<Span>, String> {
        let Some((block, b)) = self.around(kind, address) else { return Ok(None) };
        let end = b.address + b.bytes as u64;
        if bytes as u64 > end - address {
            if address == end {
                return Ok(None);
            }
            let from = address - b.address;
            return Err(format!(
                "bytes {from}..{} of {}, which has {}",
                from + bytes as u64,
                Named(block, b),
                b.bytes
            ));
        }
        Ok(Some(Span { block, address, bytes }))
    }

    /// Records that work accesses a span, and returns the earlier work it races with. `clock` is
    /// what comes before the work, `host` is what the host knows to be done.
    pub(crate) fn touch(
        &mut self,
        span: &Span,
        writes: bool,
        new: Position,
        what: &Arc<str>,
        clock: &Clock,
        host: &Clock,
    ) -> Vec<String> {
        let Some(block) = self.blocks.get_mut(&span.block) else { return Vec::new() };
        let start = span.address - block.address;
        let range = start..start + span.bytes as u64;
        if range.is_empty() {
            return Vec::new();
        }
        let mut raced = Vec::new();
        let new = Access { position: new, what: what.clone(), writes, range };
        let mut accesses = std::mem::take(&mut block.accesses);
        accesses.retain(|old| {
            let ordered = clock.covers(old.position.lane, old.position.at);
            let together = old.range.start < new.range.end && new.range.start < old.range.end;
            if together && (old.writes || new.writes) && !ordered {
                raced.push(format!(
                    "{}: {new} and is not ordered after this: {old}",
                    Named(span.block, block)
                ));
            }
            let inside = new.range.start <= old.range.start && old.range.end <= new.range.end;
            // Whatever is ordered after the new access is then also ordered after the old one.
            let replaced = ordered && inside && (new.writes || !old.writes);
            !replaced && !host.covers(old.position.lane, old.position.at)
        });
        accesses.push(new);
        block.accesses = accesses;
        raced
    }

    /// Work on an allocation that the host does not know to be done.
    pub(crate) fn busy(&self, number: u64, host: &Clock) -> Option<String> {
        let accesses = &self.blocks.get(&number)?.accesses;
        accesses.iter().find(|a| !host.covers(a.position.lane, a.position.at)).map(|a| a.to_string())
    }

    fn by_address(&mut self, kind: Kind) -> &mut BTreeMap<u64, u64> {
        if kind == Kind::Device { &mut self.device } else { &mut self.pinned }
    }
}

/// An allocation as messages name it.
#[derive(Debug)]
pub(crate) struct Named<'a>(pub(crate) u64, pub(crate) &'a Block);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.1.kind == Kind::Device { "device" } else { "pinned" };
        write!(f, "{kind} allocation {} of {} bytes", self.0, self.1.bytes)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.writes { "writes" } else { "reads" };
        let Position { lane, at } = self.position;
        write!(f, "{} (stream {lane}, operation {at}) {verb} ", self.what)?;
        // Of a kernel's operand only the first byte is known.
        if self.range.end - self.range.start == 1 {
            write!(f, "from byte {} on", self.range.start)
        } else {
            write!(f, "bytes {}..{}", self.range.start, self.range.end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lane: usize, at: u64) -> Position {
        Position { lane, at }
    }

    /// A write of bytes 0..100 in lane 0, then work in lane 1 on `range`, with and without
    /// ordering after the first.
    fn check(range: Range<u64>, writes: bool, knows: bool, races: bool) {
        let mut blocks = Blocks::default();
        let block = blocks.enter(Kind::Device, 0, 1000, 200, None);
        let (host, mut clock) = (Clock::default(), Clock::default());
        let first = Span { block, address: 1000, bytes: 100 };
        assert!(blocks.touch(&first, true, at(0, 1), &"copy".into(), &clock, &host).is_empty());
        if knows {
            clock.reach(0, 1);
        }
        let second = Span { block, address: 1000 + range.start, bytes: (range.end - range.start) as usize };
        let found = blocks.touch(&second, writes, at(1, 1), &"kernel".into(), &clock, &host);
        assert_eq!(!found.is_empty(), races, "{found:?}");
    }

    #[test]
    fn only_what_overlaps_without_order_races() {
        check(50..60, false, false, true);
        check(50..60, true, false, true);
        check(50..60, false, true, false);
        check(100..160, true, false, false);
        check(60..60, true, false, false);
    }

    #[test]
    fn spans_lie_in_one_allocation() {
        let mut blocks = Blocks::default();
        let block = blocks.enter(Kind::Device, 0, 1000, 200, None);
        assert_eq!(blocks.span(Kind::Device, 1100, 100).unwrap().unwrap().block, block);
        assert!(
            blocks
                .span(Kind::Device, 1100, 101)
                .unwrap_err()
                .contains("bytes 100..201 of device allocation 1")
        );
        assert!(blocks.span(Kind::Device, 999, 1).unwrap().is_none());
        assert!(blocks.span(Kind::Device, 1200, 1).unwrap().is_none());
        assert!(blocks.span(Kind::Pinned, 1100, 1).unwrap().is_none());
        blocks.leave(block).unwrap();
        assert_eq!((blocks.at(Kind::Device, 1000), blocks.freed_at(1000)), (None, Some(block)));
    }
}
