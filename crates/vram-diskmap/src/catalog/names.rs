//! Many names in little memory: one arena of text and one open-addressing table of numbers.

use std::hash::{BuildHasher, RandomState};

use vram_types::SourceErrorKind;

use crate::fault::Fault;

/// How many names there are, as a [`Table`] numbers them.
pub(crate) fn count(len: usize) -> Result<u32, Fault> {
    u32::try_from(len)
        .ok()
        .filter(|&n| n < EMPTY)
        .ok_or_else(|| Fault::new(SourceErrorKind::Unsupported, "more names than 32 bits number"))
}

/// Where a name lies in a [`Names`] arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameRef {
    start: u32,
    len: u32,
}

/// The text of all names, one after the other.
#[derive(Default)]
pub(crate) struct Names {
    text: String,
}

impl Names {
    /// Keeps a name. Fails when all names together are longer than 4 GiB.
    pub(crate) fn push(&mut self, name: &str) -> Result<NameRef, Fault> {
        let long = |_| Fault::new(SourceErrorKind::Unsupported, "names of more than 4 GiB");
        let start = u32::try_from(self.text.len()).map_err(long)?;
        let len = u32::try_from(name.len()).map_err(long)?;
        self.text.push_str(name);
        Ok(NameRef { start, len })
    }

    /// Sets memory aside for so many bytes of names.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    /// Gives back what is set aside and not used.
    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
    }

    pub(crate) fn get(&self, name: NameRef) -> &str {
        let start = name.start as usize;
        self.text.get(start..start + name.len as usize).unwrap_or_default()
    }
}

/// Finds a number by its name. The hash is keyed, since files come from strangers.
pub(crate) struct Table {
    /// A power of two of slots, at most half of them taken; [`EMPTY`] or a number.
    slots: Vec<u32>,
    keys: [u64; 2],
}

const EMPTY: u32 = u32::MAX;

impl Table {
    /// A table of `0..count`, whose names `name_of` tells. `Err((first, second))` if two of them
    /// are equal.
    pub(crate) fn build<'n>(count: u32, name_of: impl Fn(u32) -> &'n str) -> Result<Table, (u32, u32)> {
        let size = (count as usize * 2).next_power_of_two().max(4);
        let mut table = Table { slots: vec![EMPTY; size], keys: keys() };
        for number in 0..count {
            let slot = table.slot(name_of(number), &name_of);
            match table.slots.get_mut(slot) {
                Some(free) if *free == EMPTY => *free = number,
                Some(taken) => return Err((*taken, number)),
                None => {}
            }
        }
        Ok(table)
    }

    /// The number of that name.
    pub(crate) fn find<'n>(&self, name: &str, name_of: impl Fn(u32) -> &'n str) -> Option<u32> {
        let number = *self.slots.get(self.slot(name, &name_of))?;
        (number != EMPTY).then_some(number)
    }

    /// The slot that holds the name, or the free one where it belongs. Ends because half the slots
    /// are free.
    fn slot<'n>(&self, name: &str, name_of: &impl Fn(u32) -> &'n str) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(name.as_bytes(), self.keys) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => return slot,
                number if name_of(number) == name => return slot,
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

/// Two numbers that nobody outside can foresee.
fn keys() -> [u64; 2] {
    let random = RandomState::new();
    [random.hash_one(0u8), random.hash_one(1u8) | 1]
}

/// Multiplies and folds 16 bytes at a time: several times as fast on names as the standard
/// library's hash.
fn hash(name: &[u8], keys: [u64; 2]) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let (words, rest) = name.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let mut state = keys[0] ^ name.len() as u64;
    for pair in words.chunks(2) {
        let [first, second] = match pair {
            [a, b] => [word(a), word(b)],
            [a] => [word(a), 0],
            _ => [0, 0],
        };
        state = fold(state ^ first, keys[1] ^ second);
    }
    fold(state ^ word(&last), keys[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_name_and_no_other() {
        let mut names = Names::default();
        let refs: Vec<NameRef> = (0..1000).map(|i| names.push(&format!("n{i}")).unwrap()).collect();
        let name_of = |i: u32| names.get(refs[i as usize]);
        let table = Table::build(1000, name_of).unwrap();
        for i in 0..1000 {
            assert_eq!(table.find(&format!("n{i}"), name_of), Some(i));
        }
        assert_eq!(table.find("n1000", name_of), None);
        assert_eq!(table.find("", name_of), None);
        assert_eq!(Table::build(0, name_of).unwrap().find("x", name_of), None);
        let two = ["a", "b", "a"];
        assert_eq!(Table::build(3, |i| two[i as usize]).err(), Some((0, 2)));
    }
}
