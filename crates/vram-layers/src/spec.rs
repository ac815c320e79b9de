//! How a model is described to the engine: layers, and the tensors that each computes with.

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;
use vram_types::encoding::{ScaleBlocks, ScaledRows};
use vram_types::{Encoding, FileRange, Located, TensorMeta, WeightSource, WeightSourceExt};

use crate::error::Error;

/// Identifies a layer of an [`Engine`](crate::Engine) by its place in the order of registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub usize);

/// Whether a layer can compute with less than all of its weights at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Split {
    /// No: it needs all of them.
    #[default]
    Whole,
    /// Yes, with any rows: all its tensors have the same outermost extent, and each row gives its own
    /// outputs.
    Rows,
    /// It needs only a few rows, known when the layer runs: an embedding. If the table is not resident, only
    /// these rows are read.
    Gather,
}

/// One layer: the finest grain at which weights move.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    name: String,
    tensors: Vec<String>,
    encoded: Vec<String>,
    scaled: Vec<(String, Scales)>,
    split: Split,
    group: Option<usize>,
}

/// The scales of a weight.
#[derive(Clone, Debug)]
pub(crate) struct Scales {
    /// The name of the tensor that holds them.
    pub(crate) name: String,
    /// Which scale applies to which element.
    pub(crate) blocks: ScaleBlocks,
}

impl LayerSpec {
    /// A layer that computes with these tensors of the source.
    pub fn new<S: Into<String>>(
        name: impl Into<String>,
        tensors: impl IntoIterator<Item = S>,
        split: Split,
    ) -> LayerSpec {
        LayerSpec {
            name: name.into(),
            tensors: tensors.into_iter().map(Into::into).collect(),
            encoded: Vec::new(),
            scaled: Vec::new(),
            split,
            group: None,
        }
    }

    /// Layers of one group that are registered one after the other move together if they fit.
    #[must_use]
    pub fn in_group(mut self, group: usize) -> LayerSpec {
        self.group = Some(group);
        self
    }

    /// Keeps one of the tensors in its quantised blocks, which must lie in one run of a file: it is read,
    /// kept and [leased](crate::Lease::tensor) encoded. The code that computes with it decodes it.
    #[must_use]
    pub fn keep_encoded(mut self, tensor: impl Into<String>) -> LayerSpec {
        self.add_encoded(tensor.into());
        self
    }

    /// Declares another tensor as the scales of one of the tensors, a matrix; `blocks` says which scale
    /// applies to which element. Both are leased as [one view](crate::Lease::tensor), with the scales cut by
    /// rows like the matrix. The code that computes with it multiplies.
    #[must_use]
    pub fn with_scales(
        mut self,
        tensor: impl Into<String>,
        scales: impl Into<String>,
        blocks: ScaleBlocks,
    ) -> LayerSpec {
        self.add_scales(tensor.into(), Scales { name: scales.into(), blocks });
        self
    }

    pub(crate) fn add_scales(&mut self, tensor: String, scales: Scales) {
        self.scaled.push((tensor, scales));
    }

    pub(crate) fn add_encoded(&mut self, tensor: String) {
        self.encoded.push(tensor);
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

/// A tensor of a layer, as the engine keeps it.
#[derive(Clone, Debug)]
pub(crate) struct LayerTensor {
    pub(crate) name: String,
    /// Dtype and shape after decoding.
    pub(crate) meta: TensorMeta,
    pub(crate) encoding: Encoding,
    /// Bytes that it takes in its stored encoding.
    pub(crate) bytes: u64,
    /// Where these bytes are; empty where the source computes them.
    pub(crate) ranges: SmallVec<[FileRange; 1]>,
    /// If these are scales: the index of the tensor that they belong to, and which scale applies to which
    /// element.
    pub(crate) scales_of: Option<(usize, ScaleBlocks)>,
}

impl Layer {
    /// Finds the tensors of a spec.
    ///
    /// # Errors
    /// [`Error::Source`] for a tensor that the source does not have; [`Error::Model`] if the split does not
    /// fit the tensors' shapes, if a tensor that should stay encoded has no blocks to keep, or if scales do
    /// not fit their tensor.
    pub fn resolve(spec: LayerSpec, source: &dyn WeightSource) -> Result<Layer, Error> {
        let tensor = |name: String| {
            let located = source.require(&name)?;
            match spec.encoded.contains(&name) {
                true => LayerTensor::encoded(name, located),
                false => Ok(LayerTensor::plain(name, located)),
            }
        };
        let tensors: Vec<LayerTensor> = spec.tensors.into_iter().map(tensor).collect::<Result<_, Error>>()?;
        let mut layer = Layer { name: spec.name.into(), split: spec.split, group: spec.group, tensors };
        for (tensor, scales) in spec.scaled {
            layer.add_scales(&tensor, scales, source)?;
        }
        if layer.split != Split::Whole {
            layer.check_rows()?;
        }
        Ok(layer)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of its tensors as they are kept.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// Rows of a splittable layer, 0 for others.
    pub(crate) fn rows(&self) -> usize {
        if self.split == Split::Whole {
            return 0;
        }
        self.tensors.first().and_then(|t| t.meta.shape().first().copied()).unwrap_or(0)
    }

    /// Bytes of one row of all tensors.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.tensors.iter().filter_map(LayerTensor::row_bytes).sum()
    }

    /// The scales of a tensor, if any: their index, and which scale applies to which element.
    pub(crate) fn scales(&self, tensor: usize) -> Option<(usize, &ScaleBlocks)> {
        self.tensors.iter().enumerate().find_map(|(index, scales)| match &scales.scales_of {
            Some((of, blocks)) if *of == tensor => Some((index, blocks)),
            _ => None,
        })
    }

    fn add_scales(&mut self, tensor: &str, scales: Scales, source: &dyn WeightSource) -> Result<(), Error> {
        let Scales { name, blocks } = scales;
        let refuse = |why: &str| {
            let what = format!("tensor {tensor:?} cannot be multiplied with {name:?}: {why}");
            Err(Error::Model(what))
        };
        let Some(of) = self.tensors.iter().position(|t| t.name == tensor && t.scales_of.is_none()) else {
            return refuse("the layer has no such tensor");
        };
        let located = source.require(&name)?;
        let weight = &mut self.tensors[of];
        let extents = weight.meta.shape().iter().map(|&extent| extent as u64);
        let Encoding::Plain(dtype) = weight.encoding else {
            return refuse("it is encoded, or has scales already");
        };
        let Some(all) = ScaledRows::all(&blocks).filter(|_| extents.eq(blocks.shape().iter().copied()))
        else {
            return refuse("it is not a matrix of the shape that they are for");
        };
        if located.meta.elements() != all.scales().end || located.meta.dtype().bits() < 8 {
            return refuse("there are more or fewer than it needs");
        }
        if self.split == Split::Gather {
            return refuse("a table that rows are gathered from cannot have scales");
        }
        weight.encoding = Encoding::Scaled(dtype);
        weight.meta = TensorMeta::new(weight.encoding.decoded(), weight.meta.shape().clone())?;
        let scales = LayerTensor { scales_of: Some((of, blocks)), ..LayerTensor::plain(name, located) };
        self.tensors.push(scales);
        Ok(())
    }

    fn check_rows(&self) -> Result<(), Error> {
        let rows = self.rows();
        for tensor in self.tensors.iter().filter(|tensor| tensor.scales_of.is_none()) {
            let meta = &tensor.meta;
            if meta.shape().first() != Some(&rows) || tensor.row_bytes().is_none() {
                return Err(Error::Model(format!(
                    "layer {:?} cannot be split by rows: tensor {:?} is {} {}, where {rows} rows of whole bytes are needed",
                    self.name,
                    tensor.name,
                    tensor.encoding,
                    meta.shape()
                )));
            }
        }
        Ok(())
    }
}

impl LayerTensor {
    /// A tensor that is read by name.
    pub(crate) fn plain(name: String, located: Located) -> LayerTensor {
        let Located { meta, ranges, .. } = located;
        let (encoding, bytes) = (meta.dtype().into(), meta.bytes());
        LayerTensor { name, encoding, bytes, meta, ranges, scales_of: None }
    }

    /// A tensor that is kept in its stored blocks.
    fn encoded(name: String, located: Located) -> Result<LayerTensor, Error> {
        match kept(&located) {
            Ok((encoding, range)) => {
                let (bytes, meta) = (range.bytes, located.meta);
                let ranges = SmallVec::from_buf([range]);
                Ok(LayerTensor { name, meta, encoding, bytes, ranges, scales_of: None })
            }
            Err(why) => Err(Error::Model(format!("tensor {name:?} cannot stay encoded: {why}"))),
        }
    }

    /// Dtype and shape of some rows, or of all rows, after decoding.
    pub(crate) fn meta(&self, rows: Option<&Range<usize>>) -> Result<TensorMeta, Error> {
        match (rows, &self.scales_of) {
            (None, _) => Ok(self.meta.clone()),
            (Some(rows), Some((_, blocks))) => {
                let count = self.scales_for(blocks, rows);
                Ok(TensorMeta::new(self.meta.dtype(), [(count.end - count.start) as usize])?)
            }
            (Some(rows), None) => {
                Ok(TensorMeta::new(self.meta.dtype(), self.meta.shape().with_first(rows.len()))?)
            }
        }
    }

    /// Bytes of a row as it is kept; `None` if a row is not whole bytes or whole blocks.
    pub(crate) fn row_bytes(&self) -> Option<u64> {
        if let Some((_, blocks)) = &self.scales_of {
            // On average: several rows may share a scale.
            return Some(self.bytes.div_ceil(blocks.shape().first().copied()?.max(1)));
        }
        let rows = *self.meta.shape().first()? as u64;
        match self.encoding {
            Encoding::Plain(_) => self.meta.row_bytes(),
            // Blocks run along the innermost extent, so rows of a matrix are whole blocks.
            _ if self.meta.shape().rank() < 2 => None,
            _ => Some(self.bytes.checked_div(rows).unwrap_or(0)),
        }
    }

    /// Bytes of some rows within the tensor as it is kept.
    pub(crate) fn row_range(&self, rows: Option<&Range<usize>>) -> Range<u64> {
        match (rows, &self.scales_of) {
            (None, _) => 0..self.bytes,
            (Some(rows), Some((_, blocks))) => {
                let (numbers, size) =
                    (self.scales_for(blocks, rows), u64::from(self.meta.dtype().bits()) / 8);
                numbers.start * size..numbers.end * size
            }
            (Some(rows), None) => {
                // Whole bytes per row: checked when the layer was resolved.
                let row_bytes = self.row_bytes().unwrap_or(0);
                rows.start as u64 * row_bytes..rows.end as u64 * row_bytes
            }
        }
    }

    /// The most bytes that rows can need beyond [`row_bytes`](LayerTensor::row_bytes) each.
    pub(crate) fn uneven(&self) -> u64 {
        let one_row = self.scales_of.as_ref().map_or(0..0, |(_, blocks)| self.scales_for(blocks, &(0..1)));
        2 * (one_row.end - one_row.start) * u64::from(self.meta.dtype().bits()) / 8
    }

    /// The scales that rows of their tensor need. The rows exist: the tensor was checked to be a matrix.
    fn scales_for(&self, blocks: &ScaleBlocks, rows: &Range<usize>) -> Range<u64> {
        ScaledRows::new(blocks, rows.clone()).map_or(0..0, |rows| rows.scales())
    }

    /// Where bytes of the tensor lie, if in one run of one file.
    pub(crate) fn file_range(&self, within: &Range<u64>) -> SmallVec<[FileRange; 1]> {
        match self.ranges.as_slice() {
            [range] => SmallVec::from_buf([FileRange {
                file: range.file,
                offset: range.offset + within.start,
                bytes: within.end - within.start,
            }]),
            _ => SmallVec::new(),
        }
    }
}

/// The blocks of a tensor and the run of a file that holds them, or else why they cannot be kept.
pub(crate) fn kept(located: &Located) -> Result<(Encoding, FileRange), String> {
    let Some(stored) = &located.encoded else {
        return Err(format!("the source only has it as {}", located.meta.dtype()));
    };
    let encoding = stored.encoding;
    if !matches!(encoding, Encoding::Blocks(_)) || encoding.decoded() != located.meta.dtype() {
        return Err(format!("it is stored as {encoding} and asked for as {}", located.meta.dtype()));
    }
    match (stored.ranges.as_slice(), encoding.bytes(located.meta.shape())) {
        (&[range], Ok(bytes)) if range.bytes == bytes => Ok((encoding, range)),
        (_, Ok(_)) => Err("its blocks are not in one run of a file".to_owned()),
        (_, Err(e)) => Err(e.to_string()),
    }
}
