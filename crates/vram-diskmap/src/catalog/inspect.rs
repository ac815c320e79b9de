//! What a checkpoint holds, as data.

use vram_types::{DType, TensorMeta, WeightSource};

/// What a checkpoint holds; see [`inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Every tensor, in storage order.
    pub tensors: Vec<InspectedTensor>,
    /// Totals of each dtype that occurs, in the order of [`DType::ALL`].
    pub by_dtype: Vec<DTypeTotal>,
    /// Bytes of all tensors.
    pub bytes: u64,
}

/// One tensor of an [`Inspection`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedTensor {
    /// Its name.
    pub name: String,
    /// Dtype, shape and size.
    pub meta: TensorMeta,
    /// A name for its file, as [`WeightSource::describe`] gives it; `None` for a source without
    /// files.
    pub file: Option<String>,
    /// Its first byte in that file; `None` if it is computed or lies in several places.
    pub offset: Option<u64>,
}

/// All tensors of one dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DTypeTotal {
    /// The dtype.
    pub dtype: DType,
    /// How many tensors have it.
    pub tensors: u64,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Lists a source's tensors without reading any.
pub fn inspect(source: &dyn WeightSource) -> Inspection {
    let located = source.names().filter_map(|name| Some((name, source.locate(name)?)));
    let tensors: Vec<InspectedTensor> = located
        .map(|(name, l)| InspectedTensor {
            name: name.to_owned(),
            file: source.describe(l.storage.file).map(String::from),
            offset: match l.ranges.as_slice() {
                [range] => Some(range.offset),
                _ => None,
            },
            meta: l.meta,
        })
        .collect();
    let by_dtype = DType::ALL.into_iter().filter_map(|dtype| total(dtype, &tensors)).collect();
    let bytes = tensors.iter().map(|t| t.meta.bytes()).sum();
    Inspection { tensors, by_dtype, bytes }
}

fn total(dtype: DType, tensors: &[InspectedTensor]) -> Option<DTypeTotal> {
    let none = DTypeTotal { dtype, tensors: 0, elements: 0, bytes: 0 };
    let sum = tensors.iter().filter(|t| t.meta.dtype() == dtype).fold(none, |sum, t| DTypeTotal {
        dtype,
        tensors: sum.tensors + 1,
        elements: sum.elements + t.meta.elements(),
        bytes: sum.bytes + t.meta.bytes(),
    });
    (sum.tensors > 0).then_some(sum)
}
