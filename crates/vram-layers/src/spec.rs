//! What the engine is told of a model: layers and the tensors that each computes with.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use vram_types::{FileRange, Located, TensorMeta, WeightSource, WeightSourceExt};

use crate::Error;

/// Names a layer of an [`Engine`](crate::Engine): the order in which it was registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub usize);

/// Whether a layer can compute with less than all of its weights at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Split {
    /// Only with all of them.
    #[default]
    Whole,
    /// With any rows of them: all its tensors have the same outermost extent, and each row gives its own outputs.
    Rows,
    /// Only a few rows are needed, known when the layer runs: an embedding. Where the table is not resident, these
    /// rows alone are read.
    Gather,
}

/// One layer: the finest grain at which weights move.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    name: String,
    tensors: Vec<String>,
    split: Split,
    group: Option<usize>,
}

impl LayerSpec {
    /// A layer that computes with the named tensors of the source.
    pub fn new<S: Into<String>>(
        name: impl Into<String>,
        tensors: impl IntoIterator<Item = S>,
        split: Split,
    ) -> LayerSpec {
        LayerSpec {
            name: name.into(),
            tensors: tensors.into_iter().map(Into::into).collect(),
            split,
            group: None,
        }
    }

    /// Layers of one group, registered one after the other, move together where they fit.
    #[must_use]
    pub fn in_group(mut self, group: usize) -> LayerSpec {
        self.group = Some(group);
        self
    }
}

/// A layer whose tensors have been found in a source.
#[derive(Clone, Debug)]
pub struct Layer {
    pub(crate) name: Arc<str>,
    pub(crate) split: Split,
    pub(crate) group: Option<usize>,
    pub(crate) tensors: Vec<LayerTensor>,
}

/// A tensor of a layer.
#[derive(Clone, Debug)]
pub(crate) struct LayerTensor {
    pub(crate) name: String,
    pub(crate) located: Located,
}

impl Layer {
    /// Finds the tensors of a spec.
    ///
    /// # Errors
    /// [`Error::Source`] for a tensor that the source has not, [`Error::Model`] where the split does not fit the
    /// tensors' shapes.
    pub fn resolve(spec: LayerSpec, source: &dyn WeightSource) -> Result<Layer, Error> {
        let tensors: Vec<LayerTensor> = spec
            .tensors
            .into_iter()
            .map(|name| Ok(LayerTensor { located: source.require(&name)?, name }))
            .collect::<Result<_, Error>>()?;
        let layer = Layer { name: spec.name.into(), split: spec.split, group: spec.group, tensors };
        if layer.split != Split::Whole {
            layer.check_rows()?;
        }
        Ok(layer)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of its tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.located.meta.bytes()).sum()
    }

    /// Rows of a splittable layer, 0 for others.
    pub(crate) fn rows(&self) -> usize {
        if self.split == Split::Whole {
            return 0;
        }
        self.tensors.first().and_then(|t| t.located.meta.shape().first().copied()).unwrap_or(0)
    }

    /// Bytes of one row of all tensors.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.tensors.iter().filter_map(|t| t.located.meta.row_bytes()).sum()
    }

    fn check_rows(&self) -> Result<(), Error> {
        let rows = self.rows();
        for tensor in &self.tensors {
            let meta = &tensor.located.meta;
            if meta.shape().first() != Some(&rows) || meta.row_bytes().is_none() {
                return Err(Error::Model(format!(
                    "layer {:?} cannot be split by rows: tensor {:?} is {} {}, where {rows} rows of whole bytes are needed",
                    self.name,
                    tensor.name,
                    meta.dtype(),
                    meta.shape()
                )));
            }
        }
        Ok(())
    }
}

impl LayerTensor {
    /// Dtype and shape of some rows, or of all of it.
    pub(crate) fn meta(&self, rows: Option<&Range<usize>>) -> Result<TensorMeta, Error> {
        let meta = &self.located.meta;
        match rows {
            None => Ok(meta.clone()),
            Some(rows) => Ok(TensorMeta::new(meta.dtype(), meta.shape().with_first(rows.len()))?),
        }
    }

    /// Bytes of some rows within the tensor.
    pub(crate) fn row_range(&self, rows: Option<&Range<usize>>) -> Range<u64> {
        match rows {
            None => 0..self.located.meta.bytes(),
            Some(rows) => {
                // Whole bytes per row: checked when the layer was resolved.
                let row_bytes = self.located.meta.row_bytes().unwrap_or(0);
                rows.start as u64 * row_bytes..rows.end as u64 * row_bytes
            }
        }
    }

    /// Where bytes of the tensor lie, if in one run of one file.
    pub(crate) fn file_range(&self, within: &Range<u64>) -> SmallVec<[FileRange; 1]> {
        match self.located.ranges.as_slice() {
            [range] => SmallVec::from_buf([FileRange {
                file: range.file,
                offset: range.offset + within.start,
                bytes: within.end - within.start,
            }]),
            _ => SmallVec::new(),
        }
    }
}
