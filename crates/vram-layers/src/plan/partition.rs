//! Groups layers into units: which weights move together, given the size limit of a unit. Pure.

use std::collections::HashSet;
use std::collections::hash_map::{Entry, HashMap};
use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use vram_alloc::pack::{PackOptions, Packing, Piece, pack};
use vram_types::encoding::ScaleBlocks;
use vram_types::{Encoding, FileId, TensorMeta};

use crate::error::Error;
use crate::spec::{Layer, LayerId, LayerTensor, Split};

/// Tiles of a split layer begin at multiples of this many rows, so that kernels work on whole blocks.
pub const TILE_ROWS: usize = 16;

/// Gaps up to this many bytes between tensors of a unit are read along with them.
const MERGE_GAP: u64 = 4096;

/// Identifies a unit of a [`Plan`](crate::Plan) by its place in the order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub usize);

/// Weights that move together.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Name of its first layer, with the rows if it is a tile.
    pub(crate) name: Arc<str>,
    /// Bytes of the slot that holds it, slack included.
    pub(crate) bytes: u64,
    /// Whether it is a table of which passes read only a few rows; such a unit never goes through the ring.
    pub(crate) table: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) packing: Packing,
}

/// The layers and rows of a unit, which identify it across plans.
pub(crate) type Identity = Vec<(LayerId, Option<Range<usize>>)>;

impl Unit {
    pub(crate) fn identity(&self) -> Identity {
        self.members.iter().map(|m| (m.layer, m.rows.clone())).collect()
    }

    /// Bytes that are read for it: its tensors and the gaps between them.
    pub(crate) fn read_bytes(&self) -> u64 {
        let extents = self.packing.extents.iter().map(|e| e.bytes);
        extents.chain(self.packing.computed.iter().map(|c| c.bytes)).sum()
    }
}

/// The part of a layer that is in a unit.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) layer: LayerId,
    /// The rows, if the layer is split; `None` for all of it.
    pub(crate) rows: Option<Range<usize>>,
    pub(crate) tensors: Vec<Placed>,
}

/// A tensor, or some rows of it, in a slot.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) at: u64,
    /// Dtype and shape after decoding.
    pub(crate) meta: TensorMeta,
    pub(crate) encoding: Encoding,
    /// Which bytes of the stored tensor these are.
    pub(crate) within: Range<u64>,
}

/// Where a layer's weights are: one entry for each of its tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) unit: UnitId,
    pub(crate) member: usize,
}

impl Placed {
    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.within.end - self.within.start
    }
}

/// The units of a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partition {
    pub(crate) units: Vec<Unit>,
    pub(crate) tiles: Vec<Vec<Tile>>,
}

/// Cuts a model into units of at most `cap` bytes where its layers allow it. A group stays together if it
/// fits, otherwise its layers become separate units, and a layer that does not fit is split into tiles of at
/// least [`TILE_ROWS`] rows. If what cannot be split exceeds `cap`, the unit exceeds it too.
///
/// A table that no pass leases is not split: it is on the device for good or not at all.
pub(crate) fn partition(
    layers: &[Layer],
    leased: &HashSet<LayerId>,
    cap: u64,
    sector: u64,
) -> Result<Partition, Error> {
    let mut out = Partition { units: Vec::new(), tiles: vec![Vec::new(); layers.len()] };
    let mut first = 0;
    while first < layers.len() {
        let group = layers[first].group;
        let mut end = first + 1;
        while group.is_some() && end < layers.len() && layers[end].group == group {
            end += 1;
        }
        let whole: Vec<_> = (first..end).map(|i| (LayerId(i), None)).collect();
        let mut together = build(layers, &whole, sector)?;
        together.table =
            end - first == 1 && layers[first].split == Split::Gather && !leased.contains(&LayerId(first));
        if together.bytes <= cap || together.table {
            out.push(together);
        } else {
            for (id, layer) in (first..end).map(LayerId).zip(&layers[first..end]) {
                out.push_layer(layers, id, layer, cap, sector)?;
            }
        }
        first = end;
    }
    Ok(out)
}

/// Bytes of the largest unit of the finest cut, among the layers that `which` names, without tables that no
/// pass leases. The same as the largest unit of a [`partition`] with `cap` 0, but without building it: that
/// partition has a unit for every [`TILE_ROWS`] rows of the model.
pub(crate) fn finest(
    layers: &[Layer],
    leased: &HashSet<LayerId>,
    sector: u64,
    which: impl Fn(LayerId) -> bool,
) -> Result<u64, Error> {
    let grouped = |i: usize| {
        let beside = |other: Option<usize>| {
            other.and_then(|j| layers.get(j)).is_some_and(|l| l.group == layers[i].group)
        };
        layers[i].group.is_some() && (beside(i.checked_sub(1)) || beside(i.checked_add(1)))
    };
    let mut known: HashMap<Footprint, u64> = HashMap::new();
    let mut largest = 0;
    for (i, layer) in layers.iter().enumerate() {
        let id = LayerId(i);
        let table = layer.split == Split::Gather && !leased.contains(&id) && !grouped(i);
        if table || !which(id) {
            continue;
        }
        let bytes = match known.entry(Footprint::of(layer, sector)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => *new.insert(finest_of(layer, sector)?),
        };
        largest = largest.max(bytes);
    }
    Ok(largest)
}

/// Bytes of the largest tile of a layer, or of the layer if it cannot be split.
fn finest_of(layer: &Layer, sector: u64) -> Result<u64, Error> {
    if layer.split == Split::Whole {
        return Ok(lay_out(layer, None, sector)?.bytes);
    }
    let mut largest = 0;
    for rows in tiles(layer.rows(), layer.row_bytes(), 0, 0) {
        largest = largest.max(lay_out(layer, Some(&rows), sector)?.bytes);
    }
    Ok(largest)
}

fn lay_out(layer: &Layer, rows: Option<&Range<usize>>, sector: u64) -> Result<Packing, Error> {
    let pieces: Vec<Piece> =
        layer.tensors.iter().map(|tensor| piece(tensor, &tensor.row_range(rows))).collect();
    packed(&pieces, sector)
}

/// Everything that the sizes of a layer's tiles depend on. Layers that are stored alike, whole sectors apart,
/// have the same footprint.
#[derive(PartialEq, Eq, Hash)]
struct Footprint {
    split: Split,
    rows: usize,
    /// Size of each tensor in bytes, and its start if it lies in one run of a file.
    tensors: SmallVec<[(u64, Option<Begin>); 2]>,
    /// How scales are cut.
    scales: SmallVec<[ScaleBlocks; 1]>,
}

/// A file, and an offset from the sector in which the layer's first tensor begins.
type Begin = (FileId, i128);

impl Footprint {
    fn of(layer: &Layer, sector: u64) -> Footprint {
        let begins = |tensor: &LayerTensor| match tensor.ranges.as_slice() {
            [range] => Some((range.file, i128::from(range.offset))),
            _ => None,
        };
        let first = layer.tensors.iter().find_map(begins).map_or(0, |(_, at)| at);
        let from = first - first % i128::from(sector.max(1));
        let tensor = |t: &LayerTensor| (t.bytes, begins(t).map(|(file, at)| (file, at - from)));
        Footprint {
            split: layer.split,
            rows: layer.rows(),
            tensors: layer.tensors.iter().map(tensor).collect(),
            scales: layer.tensors.iter().filter_map(|t| Some(t.scales_of.as_ref()?.1.clone())).collect(),
        }
    }
}

impl Partition {
    fn push_layer(
        &mut self,
        layers: &[Layer],
        id: LayerId,
        layer: &Layer,
        cap: u64,
        sector: u64,
    ) -> Result<(), Error> {
        let whole = build(layers, &[(id, None)], sector)?;
        if whole.bytes <= cap || layer.split == Split::Whole {
            self.push(whole);
            return Ok(());
        }
        let units = cut(layers, id, cap, sector)?;
        units.into_iter().for_each(|unit| self.push(unit));
        Ok(())
    }

    fn push(&mut self, unit: Unit) {
        let id = UnitId(self.units.len());
        for (member, m) in unit.members.iter().enumerate() {
            self.tiles[m.layer.0].push(Tile { unit: id, member });
        }
        self.units.push(unit);
    }
}

/// Cuts a layer into tiles of at most `cap` bytes each, but of at least [`TILE_ROWS`] rows.
fn cut(layers: &[Layer], id: LayerId, cap: u64, sector: u64) -> Result<Vec<Unit>, Error> {
    let layer = &layers[id.0];
    let with = |slack| -> Result<Vec<Unit>, Error> {
        tiles(layer.rows(), layer.row_bytes(), slack, cap)
            .map(|rows| build(layers, &[(id, Some(rows))], sector))
            .collect()
    };
    let units = with(slack(layer, sector))?;
    if units.iter().any(|u| u.bytes > cap) {
        // Gaps between the tensors' rows are read along; if that is too much, leave room for them.
        return with(slack(layer, sector) + layer.tensors.len() as u64 * MERGE_GAP);
    }
    Ok(units)
}

/// The most that a tile's slot can exceed its tensors and the gaps between them.
fn slack(layer: &Layer, sector: u64) -> u64 {
    let uneven: u64 = layer.tensors.iter().map(LayerTensor::uneven).sum();
    layer.tensors.len() as u64 * (2 * (sector - 1)).max(64) + uneven
}

/// Tiles of equal size, each at most `cap` bytes with slack, but of at least [`TILE_ROWS`] rows.
fn tiles(rows: usize, row_bytes: u64, slack: u64, cap: u64) -> impl Iterator<Item = Range<usize>> {
    let fitting = cap.saturating_sub(slack) / row_bytes.max(1);
    let fitting = usize::try_from(fitting).unwrap_or(usize::MAX) / TILE_ROWS * TILE_ROWS;
    let count = rows.div_ceil(fitting.max(TILE_ROWS)).max(1);
    let step = rows.div_ceil(count).next_multiple_of(TILE_ROWS);
    (0..rows.div_ceil(step)).map(move |i| i * step..((i + 1) * step).min(rows))
}

fn build(layers: &[Layer], parts: &[(LayerId, Option<Range<usize>>)], sector: u64) -> Result<Unit, Error> {
    let mut pieces = Vec::new();
    let mut members = Vec::with_capacity(parts.len());
    for (id, rows) in parts {
        let mut tensors = Vec::new();
        for tensor in &layers[id.0].tensors {
            let within = tensor.row_range(rows.as_ref());
            pieces.push(piece(tensor, &within));
            let (meta, encoding) = (tensor.meta(rows.as_ref())?, tensor.encoding);
            tensors.push(Placed { at: 0, meta, encoding, within });
        }
        members.push(Member { layer: *id, rows: rows.clone(), tensors });
    }
    let packing = packed(&pieces, sector)?;
    for (placed, at) in members.iter_mut().flat_map(|m| &mut m.tensors).zip(&packing.at) {
        placed.at = *at;
    }
    let first = &layers[parts[0].0.0];
    let name = match &parts[0].1 {
        Some(rows) => format!("{}[{}..{}]", first.name, rows.start, rows.end).into(),
        None => Arc::clone(&first.name),
    };
    Ok(Unit { name, bytes: packing.bytes, table: false, members, packing })
}

fn piece(tensor: &LayerTensor, within: &Range<u64>) -> Piece {
    Piece { bytes: within.end - within.start, ranges: tensor.file_range(within) }
}

fn packed(pieces: &[Piece], sector: u64) -> Result<Packing, Error> {
    let options = PackOptions { merge_gap: MERGE_GAP, align: 64, sector };
    pack(pieces, &options).map_err(|e| Error::Model(e.to_string()))
}

#[cfg(test)]
mod tests {
    use vram_types::{DType, FileRange, Located, StorageId};

    use super::*;

    /// Layers of one to three tensors in files with gaps, some in several runs, in random order.
    fn random_layers(seed: u64) -> Vec<Layer> {
        let mut state = seed;
        let mut below = |n: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) % n
        };
        let mut offset = 0;
        let mut layers = Vec::new();
        for i in 0..1 + seed % 9 {
            let rows = 1 + below(200) as usize;
            let mut tensors = Vec::new();
            for _ in 0..1 + below(3) {
                let meta = TensorMeta::new(DType::F16, [rows, 1 + below(300) as usize]).unwrap();
                offset += [0, 0, 2, 700, 5000][below(5) as usize];
                let file = FileId(below(2) as u32);
                let range = FileRange { file, offset, bytes: meta.bytes() };
                let ranges = if below(8) == 0 { SmallVec::new() } else { SmallVec::from_buf([range]) };
                offset = range.end();
                let located = Located::new(meta, StorageId { file, offset: range.offset }, ranges);
                tensors.push(LayerTensor::plain(String::new(), located));
            }
            let split = [Split::Whole, Split::Rows, Split::Rows, Split::Gather][below(4) as usize];
            let weight = tensors[0].meta.shape().clone();
            let counts = [below(2) as usize * (rows.div_ceil(128) - 1) + 1, weight.last()];
            if split != Split::Gather && below(2) == 0 {
                let meta = TensorMeta::new(DType::F32, counts).unwrap();
                offset += [0, 700, 5000][below(3) as usize];
                let (file, bytes) = (FileId(0), meta.bytes());
                let range = FileRange { file, offset, bytes };
                offset = range.end();
                let located = Located::new(meta, StorageId { file, offset: range.offset }, [range]);
                let blocks = ScaleBlocks::new(&weight, &counts.into()).unwrap();
                let scales = LayerTensor::plain(String::new(), located);
                tensors.push(LayerTensor { scales_of: Some((0, blocks)), ..scales });
            }
            let group = (below(3) > 0).then_some(i as usize / 3);
            layers.push(Layer { name: format!("{i}").into(), split, group, tensors });
        }
        // Stored alike, whole sectors further on.
        for mut again in layers.clone() {
            for tensor in &mut again.tensors {
                tensor.ranges.iter_mut().for_each(|r| r.offset += 1 << 20);
            }
            again.group = again.group.map(|g| g + 100);
            layers.push(again);
        }
        layers
    }

    #[test]
    fn the_finest_cut_is_as_large_as_its_largest_unit() {
        for seed in 0..500 {
            let layers = random_layers(seed);
            let ids = (0..layers.len()).map(LayerId);
            let used: HashSet<LayerId> = ids.filter(|id| (seed >> (id.0 % 5)) & 1 == 0).collect();
            for sector in [1, 512, 4096] {
                for guessed in [false, true] {
                    let cut = partition(&layers, &used, 0, sector).unwrap();
                    let may = |m: &Member| guessed || used.contains(&m.layer);
                    let units = cut.units.iter().filter(|u| !u.table && u.members.iter().any(may));
                    let expected = units.map(|u| u.bytes).max().unwrap_or(0);
                    let got = finest(&layers, &used, sector, |id| guessed || used.contains(&id)).unwrap();
                    assert_eq!(got, expected, "seed {seed}, sectors of {sector}");
                }
            }
        }
    }

    #[test]
    fn tiles_cover_all_rows_once_and_keep_to_the_cap() {
        for rows in [1, 15, 16, 17, 100, 384, 3072] {
            for cap in [0, 1000, 5000, 40_000, 1 << 20, u64::MAX] {
                let all: Vec<_> = tiles(rows, 100, 64, cap).collect();
                assert_eq!(all.first().map(|r| r.start), Some(0));
                assert_eq!(all.last().map(|r| r.end), Some(rows));
                for pair in all.windows(2) {
                    assert_eq!(pair[0].end, pair[1].start);
                    assert_eq!(pair[1].start % TILE_ROWS, 0);
                }
                for tile in &all {
                    let bytes = tile.len() as u64 * 100 + 64;
                    assert!(bytes <= cap || tile.len() <= TILE_ROWS, "{tile:?} of {rows} in {cap}");
                }
            }
        }
    }
}
