//! From layers to units: which weights move together, given the largest piece that may. Pure.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use vram_alloc::pack::{PackOptions, Packing, Piece, pack};
use vram_types::TensorMeta;

use crate::spec::{Layer, LayerId, Split};
use crate::{Error, UnitId};

/// Tiles of a layer that is split begin at multiples of this many rows, so that kernels work on whole blocks.
pub const TILE_ROWS: usize = 16;

/// Gaps up to this many bytes between tensors of a unit are read along with them.
const MERGE_GAP: u64 = 4096;

/// Weights that move together.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    /// Name of its first layer, with the rows if it is a tile.
    pub(crate) name: Arc<str>,
    /// Bytes of the slot that holds it, slack included.
    pub(crate) bytes: u64,
    /// Whether it is a table of which passes read only a few rows: it never goes through the ring.
    pub(crate) table: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) packing: Packing,
}

/// A unit by the layers and rows that it holds: what it is called in every plan.
pub(crate) type Identity = Vec<(LayerId, Option<Range<usize>>)>;

impl Unit {
    pub(crate) fn identity(&self) -> Identity {
        self.members.iter().map(|m| (m.layer, m.rows.clone())).collect()
    }

    /// Bytes that are read for it: its tensors, and the gaps between them.
    pub(crate) fn read_bytes(&self) -> u64 {
        let extents = self.packing.extents.iter().map(|e| e.bytes);
        extents.chain(self.packing.computed.iter().map(|c| c.bytes)).sum()
    }
}

/// The part of a layer that is in a unit.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) layer: LayerId,
    /// The rows, of a layer that is split; `None` for all of it.
    pub(crate) rows: Option<Range<usize>>,
    pub(crate) tensors: Vec<Placed>,
}

/// A tensor, or some rows of it, in a slot.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) at: u64,
    pub(crate) meta: TensorMeta,
    /// The bytes of the tensor that these are.
    pub(crate) within: Range<u64>,
}

/// Where a layer's weights are: one entry for each of its tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) unit: UnitId,
    pub(crate) member: usize,
}

/// The units of a model.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partition {
    pub(crate) units: Vec<Unit>,
    pub(crate) tiles: Vec<Vec<Tile>>,
}

/// Cuts a model into units of at most `cap` bytes where its layers allow it: a group stays together if it fits,
/// else its layers come apart, and a layer that does not fit is split into tiles of at least [`TILE_ROWS`] rows.
/// Where `cap` is smaller than what cannot be split, the unit is larger than `cap`.
///
/// A table that no pass leases stays whole: it is on the device for good or not at all.
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

/// Tiles of a layer, of at most `cap` bytes each where [`TILE_ROWS`] rows are not more.
fn cut(layers: &[Layer], id: LayerId, cap: u64, sector: u64) -> Result<Vec<Unit>, Error> {
    let layer = &layers[id.0];
    let with = |slack| -> Result<Vec<Unit>, Error> {
        tiles(layer.rows(), layer.row_bytes(), slack, cap)
            .map(|rows| build(layers, &[(id, Some(rows))], sector))
            .collect()
    };
    let units = with(slack(layer, sector))?;
    if units.iter().any(|u| u.bytes > cap) {
        // Gaps between the tensors' rows are read along; where that is too much, leave room for them.
        return with(slack(layer, sector) + layer.tensors.len() as u64 * MERGE_GAP);
    }
    Ok(units)
}

/// The most that a tile's slot exceeds its tensors' bytes and the gaps between them.
fn slack(layer: &Layer, sector: u64) -> u64 {
    layer.tensors.len() as u64 * (2 * (sector - 1)).max(64)
}

/// Tiles of equal size, each at most `cap` bytes with slack, but at least [`TILE_ROWS`] rows.
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
            let ranges = tensor.file_range(&within);
            pieces.push(Piece { bytes: within.end - within.start, ranges });
            tensors.push(Placed { at: 0, meta: tensor.meta(rows.as_ref())?, within });
        }
        members.push(Member { layer: *id, rows: rows.clone(), tensors });
    }
    let options = PackOptions { merge_gap: MERGE_GAP, align: 64, sector };
    let packing = pack(&pieces, &options).map_err(|e| Error::Model(e.to_string()))?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
