//! The document that `vram inspect --json` prints.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use vram_diskmap::{Converted, DiskMap};
use vram_types::{FileId, WeightSource};

use super::{Args, Sort};
use crate::checkpoint::{self, Checkpoint};

#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    /// Absent with `--summary` and `--group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tensors: Option<Vec<Tensor<'a>>>,
    /// With `--group`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) groups: Option<Vec<Group>>,
    pub(super) totals: Vec<Total>,
    /// How many tensors.
    pub(super) count: usize,
    /// Elements of all tensors.
    pub(super) parameters: u64,
    pub(super) bytes: u64,
    /// Bytes that were read for this listing.
    pub(super) bytes_read: u64,
    /// How each file would be read.
    pub(super) reading: Vec<Reading<'a>>,
    /// Tensors that exist but cannot be read.
    pub(super) unreadable: Vec<Unreadable<'a>>,
    /// What PyTorch files hold beside tensors, numbers and texts.
    pub(super) unread: Vec<Unreadable<'a>>,
    /// Defects that were accepted.
    pub(super) leniencies: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) metadata: Vec<Metadata<'a>>,
    /// Checkpoints that cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) failed: Vec<Failed<'a>>,
}

/// A checkpoint that cannot be read.
#[derive(Debug, Serialize)]
pub(super) struct Failed<'a> {
    /// Paths that are not UTF-8 have no JSON of their own.
    pub(super) path: Cow<'a, str>,
    pub(super) error: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Reading<'a> {
    pub(super) file: Cow<'a, str>,
    pub(super) file_system: Option<&'static str>,
    /// How uncached bytes are read.
    path: &'static str,
    why: String,
    alignment: Option<usize>,
    pub(super) cached_bytes: Option<u64>,
    pub(super) bytes: Option<u64>,
}

impl Reading<'_> {
    /// How uncached bytes are read, and why.
    pub(super) fn way(&self) -> String {
        format!("{} ({})", self.path, self.why)
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Unreadable<'a> {
    pub(super) name: &'a str,
    pub(super) why: &'a str,
}

#[derive(Debug, Serialize)]
pub(super) struct Metadata<'a> {
    file: Cow<'a, str>,
    pub(super) pairs: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a str,
    /// As stored: quantised blocks have the name of their type.
    pub(super) dtype: &'static str,
    pub(super) shape: &'a [usize],
    pub(super) bytes: u64,
    pub(super) file: Cow<'a, str>,
    /// The offset in the file. Absent for tensors that the rules assemble from several places.
    pub(super) offset: Option<u64>,
    /// The stored tensors that the rules make it from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) made_of: Vec<&'a str>,
}

impl Tensor<'_> {
    fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |product, extent| product.saturating_mul(*extent as u64))
    }
}

/// Tensors that differ only in the numbers of their names.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Group {
    /// With `*` for the numbers that differ.
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) shape: Vec<usize>,
    pub(super) tensors: usize,
    pub(super) parameters: u64,
    pub(super) bytes: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Total {
    pub(super) dtype: &'static str,
    pub(super) tensors: usize,
    pub(super) parameters: u64,
    pub(super) bytes: u64,
}

impl<'a> Document<'a> {
    pub(super) fn new(args: &Args, checkpoints: &'a [Checkpoint], failed: Vec<Failed<'a>>) -> Document<'a> {
        let mut tensors: Vec<Tensor<'_>> = Vec::new();
        for checkpoint in checkpoints {
            match checkpoint {
                Checkpoint::Plain(map) => tensors.extend(stored(map)),
                Checkpoint::Converted(converted) => tensors.extend(made(converted)),
            }
        }
        tensors.retain(|tensor| checkpoint::wanted(&args.tensors, tensor.name));
        let mut groups = args.group.then(|| groups(&tensors));
        match args.sort {
            Sort::File => {}
            Sort::Name => {
                tensors.sort_by_cached_key(|tensor| by_value(tensor.name));
                groups.iter_mut().for_each(|groups| groups.sort_by_cached_key(|group| by_value(&group.name)));
            }
            Sort::Size => {
                tensors.sort_by_key(|tensor| Reverse(tensor.bytes));
                groups.iter_mut().for_each(|groups| groups.sort_by_key(|group| Reverse(group.bytes)));
            }
        }
        let totals = totals(&tensors);
        let maps = || checkpoints.iter().map(Checkpoint::map);
        let metadata = match args.metadata {
            true => maps().flat_map(metadata).collect(),
            false => Vec::new(),
        };
        Document {
            count: tensors.len(),
            parameters: totals.iter().map(|t| t.parameters).fold(0, u64::saturating_add),
            bytes: totals.iter().map(|t| t.bytes).sum(),
            tensors: (!args.summary && !args.group).then_some(tensors),
            groups,
            totals,
            bytes_read: maps().map(DiskMap::bytes_read).sum(),
            reading: maps().flat_map(reading).collect(),
            unreadable: maps()
                .flat_map(DiskMap::unreadable)
                .map(|(name, why)| Unreadable { name, why })
                .collect(),
            unread: maps().flat_map(DiskMap::unread).map(|(name, why)| Unreadable { name, why }).collect(),
            leniencies: maps().flat_map(DiskMap::leniencies).collect(),
            metadata,
            failed,
        }
    }
}

fn totals(tensors: &[Tensor<'_>]) -> Vec<Total> {
    let mut totals = BTreeMap::<&str, Total>::new();
    for tensor in tensors {
        let dtype = tensor.dtype;
        let total = totals.entry(dtype).or_insert(Total { dtype, tensors: 0, parameters: 0, bytes: 0 });
        total.tensors += 1;
        total.parameters = total.parameters.saturating_add(tensor.elements());
        total.bytes += tensor.bytes;
    }
    let mut totals: Vec<Total> = totals.into_values().collect();
    totals.sort_by_key(|t| Reverse(t.bytes));
    totals
}

/// The tensors by name without numbers, dtype and shape, in the order of the first of each.
fn groups(tensors: &[Tensor<'_>]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut numbers = HashMap::new();
    for tensor in tensors {
        let name = without_numbers(tensor.name);
        let number = *numbers.entry((name.clone(), tensor.dtype, tensor.shape)).or_insert(groups.len());
        if number == groups.len() {
            // Its own name until there is another of its kind.
            let (name, shape) = (tensor.name.to_owned(), tensor.shape.to_vec());
            groups.push(Group { name, dtype: tensor.dtype, shape, tensors: 0, parameters: 0, bytes: 0 });
        } else {
            groups[number].name = name;
        }
        let group = &mut groups[number];
        group.tensors += 1;
        group.parameters = group.parameters.saturating_add(tensor.elements());
        group.bytes += tensor.bytes;
    }
    groups
}

/// A name with `*` for each of its parts that is a number.
fn without_numbers(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = name.split('.').map(|part| if is_number(part) { "*" } else { part }).collect();
    parts.join(".")
}

/// What orders names as people count: `blocks.2` before `blocks.10`.
fn by_value(name: &str) -> Vec<(u64, String)> {
    name.split('.').map(|part| (part.parse().unwrap_or(u64::MAX), part.to_owned())).collect()
}

fn reading(map: &DiskMap) -> impl Iterator<Item = Reading<'_>> {
    map.files().zip(0..).filter_map(|(file, i)| {
        let reading = map.reading(FileId(i))?;
        Some(Reading {
            file,
            file_system: reading.file_system,
            path: reading.path.name(),
            why: reading.why,
            alignment: reading.alignment,
            cached_bytes: reading.cached_bytes,
            bytes: map.file_bytes(FileId(i)),
        })
    })
}

/// The tensors as stored.
fn stored(map: &DiskMap) -> impl Iterator<Item = Tensor<'_>> {
    map.iter().map(|(name, info)| {
        let dtype = info.encoding().name();
        let range = info.range();
        let file = map.describe(range.file).unwrap_or_default();
        let (shape, bytes, offset) = (&info.shape()[..], range.bytes, Some(range.offset));
        Tensor { name, dtype, shape, bytes, file, offset, made_of: Vec::new() }
    })
}

/// The tensors after the conversion.
fn made(converted: &Converted) -> impl Iterator<Item = Tensor<'_>> {
    converted.iter().map(|(name, located)| {
        let (dtype, shape) = (located.meta.dtype().name(), &located.meta.shape()[..]);
        let file = converted.describe(located.storage.file).unwrap_or_default();
        let offset = match located.ranges.as_slice() {
            [range] => Some(range.offset),
            _ => None,
        };
        let bytes = located.meta.bytes();
        Tensor { name, dtype, shape, bytes, file, offset, made_of: converted.made_of(name) }
    })
}

fn metadata(map: &DiskMap) -> impl Iterator<Item = Metadata<'_>> {
    map.files()
        .zip(0..)
        .map(|(file, i)| Metadata { file, pairs: map.metadata(FileId(i)).into_iter().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor<'a>(name: &'a str, shape: &'a [usize]) -> Tensor<'a> {
        let bytes = shape.iter().product::<usize>() as u64 * 2;
        Tensor { name, dtype: "BF16", shape, bytes, file: "".into(), offset: None, made_of: Vec::new() }
    }

    #[test]
    fn blocks_are_grouped_and_others_keep_their_names() {
        let (square, long) = ([2, 2], [4]);
        let tensors = [
            tensor("in.0.weight", &square),
            tensor("blocks.0.weight", &square),
            tensor("blocks.0.bias", &long),
            tensor("blocks.1.weight", &square),
            tensor("blocks.1.bias", &long),
            tensor("blocks.2.weight", &long),
        ];
        let found = groups(&tensors);
        let rows: Vec<(&str, usize, u64)> =
            found.iter().map(|g| (&*g.name, g.tensors, g.parameters)).collect();
        assert_eq!(
            rows,
            [
                ("in.0.weight", 1, 4),
                ("blocks.*.weight", 2, 8),
                ("blocks.*.bias", 2, 8),
                ("blocks.2.weight", 1, 4)
            ]
        );
    }

    #[test]
    fn names_are_ordered_as_people_count() {
        let mut names = ["b.10.x", "b.2.x", "a.3", "b.2", "b.x"];
        names.sort_by_key(|name| by_value(name));
        assert_eq!(names, ["a.3", "b.2", "b.2.x", "b.10.x", "b.x"]);
    }
}
