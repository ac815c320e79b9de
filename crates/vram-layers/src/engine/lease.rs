//! The lease under which a layer's weights are used.

use std::ops::Range;
use std::sync::Arc;

use vram_device::{Region, Ticket, View};
use vram_types::encoding::ScaledRows;
use vram_types::{DType, Encoding};

use super::shared::Shared;
use super::slot::{Memory, Weights};
use crate::error::Error;
use crate::plan::compose::Planned;
use crate::plan::partition::UnitId;
use crate::plan::partition::{Member, Placed, Tile};
use crate::spec::Layer;

/// The weights of one layer, or some rows of them, on the device. While it lives they do not move.
///
/// End it with [`finish`](Lease::finish) once the kernels that read it have been issued. If a lease is only
/// dropped (an error, a panic), its memory is not reused until the pass is over.
pub struct Lease {
    shared: Arc<Shared>,
    plan: Arc<Planned>,
    tile: Tile,
    weights: Option<Arc<Weights>>,
}

impl Lease {
    pub(super) fn new(shared: Arc<Shared>, plan: Arc<Planned>, tile: Tile, weights: Arc<Weights>) -> Lease {
        Lease { shared, plan, tile, weights: Some(weights) }
    }

    /// The leased rows if the layer is split; `None` for all of it.
    pub fn rows(&self) -> Option<Range<usize>> {
        self.member().rows.clone()
    }

    /// The `index`-th tensor of the layer in the order of its spec, or the leased rows of it. It is encoded
    /// if the spec [keeps](crate::LayerSpec::keep_encoded) it so, and comes with its
    /// [scales](crate::LayerSpec::with_scales).
    ///
    /// # Errors
    /// [`Error::Shape`] if the layer has no such tensor.
    pub fn tensor(&self, index: usize) -> Result<View<'_>, Error> {
        let placed = self.placed(index)?;
        let Encoding::Scaled(dtype) = placed.encoding else { return self.view(placed, placed.encoding) };
        let (scales, blocks) = self.layer().scales(index).ok_or_else(gone)?;
        let rows = self.rows().map_or_else(|| ScaledRows::all(blocks), |rows| ScaledRows::new(blocks, rows));
        let scales = self.placed(scales)?;
        let scales = self.view(scales, scales.encoding)?;
        Ok(self.view(placed, dtype.into())?.scaled(scales, rows.ok_or_else(gone)?)?)
    }

    /// The bytes of the `index`-th tensor in their stored [encoding](Lease::encoding), if the host sees them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on a device whose memory is not visible to the host.
    pub fn bytes(&self, index: usize) -> Result<&[u8], Error> {
        let placed = self.placed(index)?;
        match self.memory()? {
            Memory::Region(region) => region
                .host()
                .filter(|_| self.shared.context().shares_memory())
                .and_then(|b| b.get(placed.at as usize..(placed.at + placed.bytes()) as usize))
                .ok_or_else(|| Error::Unsupported("the host does not see the device's memory".into())),
            Memory::Mapped { .. } => self.mapped(placed),
            Memory::Gone => Err(gone()),
        }
    }

    /// The memory that holds the `index`-th tensor, and its offset there, for custom kernels; `None` in a
    /// memory map.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layer has no such tensor.
    pub fn region(&self, index: usize) -> Result<Option<(&Region, u64)>, Error> {
        let at = self.placed(index)?.at;
        Ok(match self.memory()? {
            Memory::Region(region) => Some((region, at)),
            Memory::Mapped { .. } | Memory::Gone => None,
        })
    }

    /// Dtype of the `index`-th tensor as it is stored.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layer has no such tensor, [`Error::Unsupported`] if it is in quantised blocks or
    /// has scales: see [`encoding`](Lease::encoding).
    pub fn dtype(&self, index: usize) -> Result<DType, Error> {
        let encoding = self.encoding(index)?;
        encoding
            .dtype()
            .ok_or_else(|| Error::Unsupported(format!("tensor {index} is {encoding}, which is not a dtype")))
    }

    /// How the `index`-th tensor is stored.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layer has no such tensor.
    pub fn encoding(&self, index: usize) -> Result<Encoding, Error> {
        Ok(self.placed(index)?.encoding)
    }

    /// Ends the lease. Everything that reads the weights has been issued, up to `ticket`.
    pub fn finish(mut self, ticket: Ticket) {
        if let Some(weights) = self.weights.take() {
            self.shared.release(&self.plan, self.tile.unit, weights, ticket);
        }
    }

    /// The unit that holds the weights.
    pub fn unit(&self) -> UnitId {
        self.tile.unit
    }

    fn member(&self) -> &Member {
        &self.plan.partition.units[self.tile.unit.0].members[self.tile.member]
    }

    fn layer(&self) -> &Layer {
        &self.shared.context().layers[self.member().layer.0]
    }

    fn view(&self, placed: &Placed, encoding: Encoding) -> Result<View<'_>, Error> {
        let shape = placed.meta.shape().clone();
        match self.memory()? {
            Memory::Region(region) => Ok(View::encoded(region, placed.at, shape, encoding)?),
            Memory::Mapped { .. } => Ok(View::encoded_host(self.mapped(placed)?, shape, encoding)?),
            Memory::Gone => Err(gone()),
        }
    }

    fn placed(&self, index: usize) -> Result<&Placed, Error> {
        let member = self.member();
        member.tensors.get(index).ok_or_else(|| {
            Error::Shape(format!(
                "layer {:?} has {} tensors and none with index {index}",
                self.layer().name,
                member.tensors.len()
            ))
        })
    }

    fn memory(&self) -> Result<&Memory, Error> {
        self.weights.as_ref().map(|w| w.memory()).ok_or_else(gone)
    }

    fn mapped(&self, placed: &Placed) -> Result<&[u8], Error> {
        let Memory::Mapped { windows, .. } = self.memory()? else { return Err(gone()) };
        let bytes = placed.bytes();
        if bytes == 0 {
            return Ok(&[]);
        }
        let extents = &self.plan.partition.units[self.tile.unit.0].packing.extents;
        extents
            .iter()
            .zip(windows)
            .find(|(e, _)| e.at <= placed.at && placed.at + bytes <= e.at + e.bytes)
            .and_then(|(e, w)| {
                let start = (placed.at - e.at) as usize;
                w.bytes().get(start..start + bytes as usize)
            })
            .ok_or_else(gone)
    }
}

fn gone() -> Error {
    Error::Model("the weights of a lease are gone".into())
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(weights) = self.weights.take() {
            self.shared.quarantine(&self.plan, self.tile.unit, weights);
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("unit", &self.plan.partition.units[self.tile.unit.0].name).finish()
    }
}
