//! Activations.

use std::ops::Range;

use vram_device::{Region, View, ViewMut};
use vram_types::{DType, Shape, TensorMeta};

use crate::engine::Session;
use crate::error::Error;

/// Memory with a dtype and a shape: an activation, which belongs to its pass, or a tensor of a [`Session`].
#[derive(Debug)]
pub struct Tensor {
    /// At least as large as `meta` says.
    region: Region,
    meta: TensorMeta,
}

impl Session {
    /// A tensor that outlives passes: a cache of keys, a state. Its contents are unspecified.
    ///
    /// # Errors
    /// See [`alloc`](Session::alloc).
    pub fn tensor(&self, meta: TensorMeta) -> Result<Tensor, Error> {
        Ok(Tensor::new(self.alloc(meta.bytes())?, meta))
    }
}

impl Tensor {
    /// A tensor in memory that was allocated for it.
    pub(crate) fn new(region: Region, meta: TensorMeta) -> Tensor {
        Tensor { region, meta }
    }

    pub(crate) fn into_region(self) -> Region {
        self.region
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Dtype, shape and size.
    pub fn meta(&self) -> &TensorMeta {
        &self.meta
    }

    /// Extents.
    pub fn shape(&self) -> &Shape {
        self.meta.shape()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.meta.dtype()
    }

    /// A view for reading.
    pub fn view(&self) -> View<'_> {
        // The region is as large as the tensor; otherwise no backend would take a view without memory.
        View::new(&self.region, 0, self.meta.clone()).unwrap_or_else(|_| View::absent(self.meta.clone()))
    }

    /// A view for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        // As above.
        match ViewMut::new(&mut self.region, 0, self.meta.clone()) {
            Ok(view) => view,
            Err(_) => ViewMut::absent(self.meta.clone()),
        }
    }

    /// Some rows (steps of the outermost extent), for reading.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no such rows.
    pub fn rows(&self, rows: Range<usize>) -> Result<View<'_>, Error> {
        let (at, meta) = self.row_range(rows)?;
        Ok(View::new(&self.region, at, meta)?)
    }

    /// Some rows (steps of the outermost extent), for writing.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no such rows.
    pub fn rows_mut(&mut self, rows: Range<usize>) -> Result<ViewMut<'_>, Error> {
        let (at, meta) = self.row_range(rows)?;
        Ok(ViewMut::new(&mut self.region, at, meta)?)
    }

    fn row_range(&self, rows: Range<usize>) -> Result<(u64, TensorMeta), Error> {
        let (count, row_bytes) = (self.shape().first().copied(), self.meta.row_bytes());
        match (count, row_bytes) {
            (Some(count), Some(row_bytes)) if rows.start <= rows.end && rows.end <= count => {
                let meta = TensorMeta::new(self.dtype(), self.shape().with_first(rows.len()))?;
                Ok((rows.start as u64 * row_bytes, meta))
            }
            _ => Err(Error::Shape(format!("a tensor of shape {} has no rows {rows:?}", self.shape()))),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Tensor, Error> {
        let meta = TensorMeta::new(self.dtype(), shape)?;
        if meta.bytes() != self.meta.bytes() {
            return Err(Error::Shape(format!("{} cannot take the shape {}", self.shape(), meta.shape())));
        }
        Ok(Tensor { region: self.region, meta })
    }
}
